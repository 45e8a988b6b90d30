// The MLP's function and its derivative as epilogues of a matrix product.
#pragma once

#include <cuda_fp16.h>

#include "fairway/sm90/epilogues.cuh"
#include "fairway/sm90/gemm_wide.cuh"

namespace fairway::cuda {

using sm90::GemmTileAt;

__device__ __forceinline__ float fast_sqrt(float x) {
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

// A thread's signs of its tile: one word per chunk, the bit of accumulator i at 31 - i, 1 for
// negative. Both kernels have the same tiles, so a thread reads back what its like wrote.
struct Signs {
  uint32_t word[4];
};

template <class Config, bool kKeepSigns>
class LeakySqEpilogue {
 public:
  struct Params {
    const float* row_scale;
    uint4* signs;  // [GemmTileAt::slot]
    int rows;
  };
  static constexpr bool kInput = false;

  __device__ __forceinline__ LeakySqEpilogue(const Params& params, const GemmTileAt& at)
      : scale_(params.row_scale, params.rows, at), to_(params.signs + at.slot) {}

  __device__ __forceinline__ void chunk(int c, int, int, float (&v)[32], const uint32_t (&)[16]) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float z = scale_(c, i) * v[i];
      if (kKeepSigns) word = __funnelshift_l(__float_as_uint(z), word, 1);
      const float leaky = fmaxf(z, 0.5f * z);
      v[i] = leaky * leaky;
    }
    signs_.word[c] = word;
  }

  __device__ __forceinline__ void finish() {
    if (kKeepSigns) *to_ = {signs_.word[0], signs_.word[1], signs_.word[2], signs_.word[3]};
  }

 private:
  sm90::RowScale<Config> scale_;
  uint4* to_;
  Signs signs_;
};

// kPrepare: the roots are taken ahead of time and held as halves, 11 bits of mantissa.
template <class Config, bool kPrepare = false>
class LeakySqBackwardEpilogue {
 public:
  struct Params {
    const uint4* signs;
  };
  static constexpr bool kInput = true;
  static constexpr bool kPrepares = kPrepare;

  __device__ __forceinline__ LeakySqBackwardEpilogue(const Params& params, const GemmTileAt& at) {
    const uint4 signs = __ldg(params.signs + at.slot);
    signs_ = {signs.x, signs.y, signs.z, signs.w};
  }

  // In one piece: registers are scarce where it is called.
  static __device__ __forceinline__ uint32_t prepare(uint32_t pair) {
    asm volatile(
        "{\n.reg .b32 low, high;\n"
        "shl.b32 low, %0, 16;\nand.b32 high, %0, 0xFFFF0000;\n"
        "sqrt.approx.ftz.f32 low, low;\nsqrt.approx.ftz.f32 high, high;\n"
        "min.f32 low, low, 0f477FE000;\nmin.f32 high, high, 0f477FE000;\n"  // the largest half
        "cvt.rn.f16x2.f32 %0, high, low;\n}"
        : "+r"(pair));
    return pair;
  }

  __device__ __forceinline__ void chunk(int c, int, int, float (&v)[32], const uint32_t (&in)[16]) {
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      float2 root;
      if (kPrepare && c >= sm90::kUnprepared) {
        root = __half22float2(reinterpret_cast<const __half2&>(in[i / 2]));
      } else {
        const float2 pair = sm90::unpack_bf16(in[i / 2]);
        root = {fast_sqrt(pair.x), fast_sqrt(pair.y)};
      }
      v[i] *= root.x * slope(c, i);
      v[i + 1] *= root.y * slope(c, i + 1);
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  // f'(z) over the root of f(z).
  __device__ __forceinline__ float slope(int c, int i) const {
    return (signs_.word[c] & (0x80000000u >> i)) != 0 ? -1.0f : 2.0f;
  }

  Signs signs_;
};

}  // namespace fairway::cuda
