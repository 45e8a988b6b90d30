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

// A thread's signs of its tile: one word per chunk, the bit of element i of v[p] at 31 - 8 p - i, 1
// for negative. Both kernels have the same tiles, so a thread reads back what its like wrote.
struct Signs {
  uint32_t word[4];
};

// Of the thread's two rows each one's sum over the tile's columns → to [column tiles, rows].
__device__ __forceinline__ void store_tile_sums(const float (&sums)[2],
                                                const sm90::TileElements& at, int rows, int columns,
                                                float* to) {
  // Where the tile is, from what is held anyway: registers are short.
  const int row = rows - at.rows_left;
  const int column_tile = (columns - at.columns_left) / sm90::WideConfig<>::kTileColumns;
  to += static_cast<int64_t>(column_tile) * rows + row;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = sm90::quad_sum(sums[half]);
    if (threadIdx.x % 4 == 0 && 8 * half < at.rows_left) to[8 * half] = sum;
  }
}

template <bool kKeepSigns>
class LeakySqEpilogue {
 public:
  struct Params {
    bf16* f;
    int rows, columns;
    uint4* signs;  // [GemmTileAt::slot]
  };

  __device__ __forceinline__ LeakySqEpilogue(const Params& params, const GemmTileAt& at)
      : f_(params.f), at_(at, params.rows, params.columns), to_(params.signs + at.slot) {}

  __device__ __forceinline__ void early(int) {}

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t) {
    uint32_t word = 0;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float z = v[p][i];
        if (kKeepSigns) word = __funnelshift_l(__float_as_uint(z), word, 1);
        const float leaky = fmaxf(z, 0.5f * z);
        v[p][i] = leaky * leaky;
      }
      sm90::store_global_16(f_ + at_.offset(c, p), v[p], at_.has_row(p));
    }
    signs_.word[c] = word;
  }

  __device__ __forceinline__ void finish() {
    if (kKeepSigns) *to_ = {signs_.word[0], signs_.word[1], signs_.word[2], signs_.word[3]};
  }

 private:
  bf16* f_;
  sm90::TileElements at_;
  uint4* to_;
  Signs signs_;
};

class LeakySqBackwardEpilogue {
 public:
  struct Params {
    const bf16* f;
    bf16* dz;  // may be f
    int rows, columns;
    const uint4* signs;
    float* half_dots;  // [column tiles, rows] Σ f·df of the tile's columns; null: not wanted
  };

  __device__ __forceinline__ LeakySqBackwardEpilogue(const Params& params, const GemmTileAt& at)
      : params_(params), at_(at, params.rows, params.columns), slot_(at.slot) {}

  __device__ __forceinline__ void early(int c) {
    if (c == 0) {
      const uint4 signs = sm90::load_global_16(params_.signs + slot_, true);
      signs_ = {signs.x, signs.y, signs.z, signs.w};
    }
    in_.early(params_.f, at_, c);
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const uint4 f = in_.take(params_.f, at_, c, p);
      const uint32_t pairs[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const auto [low, high] = sm90::unpack_bf16_late(pairs[i / 2], zero);
        sums_[p % 2] = fmaf(low, v[p][i], sums_[p % 2]);
        sums_[p % 2] = fmaf(high, v[p][i + 1], sums_[p % 2]);
        v[p][i] *= fast_sqrt(low) * slope(c, 8 * p + i);
        v[p][i + 1] *= fast_sqrt(high) * slope(c, 8 * p + i + 1);
      }
      sm90::store_global_16(params_.dz + at_.offset(c, p), v[p], at_.has_row(p));
    }
  }

  __device__ __forceinline__ void finish() {
    if (params_.half_dots != nullptr)
      store_tile_sums(sums_, at_, params_.rows, params_.columns, params_.half_dots);
  }

 private:
  // f'(z) over the root of f(z).
  __device__ __forceinline__ float slope(int c, int bit) const {
    return (signs_.word[c] & (0x80000000u >> bit)) != 0 ? -1.0f : 2.0f;
  }

  const Params& params_;
  sm90::TileElements at_;
  int64_t slot_;
  Signs signs_;
  float sums_[2] = {0.0f, 0.0f};  // of the thread's two rows
  sm90::TileRows<3> in_;
};

}  // namespace fairway::cuda
