// The MLP's function and its derivative as epilogues of a matrix product.
#pragma once

#include "fairway/base/bf16_cuda.cuh"
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

template <bool kKeepSigns>
class LeakySqEpilogue {
 public:
  struct Params {
    uint4* signs;  // [GemmTileAt::slot]
  };
  static constexpr bool kInput = false;

  __device__ __forceinline__ LeakySqEpilogue(const Params& params, const GemmTileAt& at)
      : to_(params.signs + at.slot) {}

  __device__ __forceinline__ void chunk(int c, float (&v)[32], const uint32_t (&)[16]) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float z = v[i];
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
  uint4* to_;
  Signs signs_;
};

class LeakySqBackwardEpilogue {
 public:
  struct Params {
    const uint4* signs;
  };
  static constexpr bool kInput = true;

  __device__ __forceinline__ LeakySqBackwardEpilogue(const Params& params, const GemmTileAt& at) {
    const uint4 signs = __ldg(params.signs + at.slot);
    signs_ = {signs.x, signs.y, signs.z, signs.w};
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[32], const uint32_t (&in)[16]) {
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const float2 pair = unpack_bf16(in[i / 2]);
      v[i] *= fast_sqrt(pair.x) * slope(c, i);
      v[i + 1] *= fast_sqrt(pair.y) * slope(c, i + 1);
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
