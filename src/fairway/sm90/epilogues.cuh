// Plain epilogues of the matrix product.
#pragma once

#include "fairway/sm90/gemm_tile.cuh"
#include "fairway/sm90/matrix_move.cuh"

namespace fairway::sm90 {

// The scales of the rows whose accumulators a thread holds; 1 without a scale.
template <class Config>
struct RowScale {
  float of[Config::kFragments][2];

  __device__ __forceinline__ RowScale(const float* scale, int rows, const GemmTileAt& at) {
#pragma unroll
    for (int f = 0; f < Config::kFragments; ++f) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = at.row + f * kBox + at.fragment_row() + 8 * h;
        of[f][h] = scale != nullptr && row < rows ? __ldg(scale + row) : 1.0f;
      }
    }
  }

  // Of accumulator i of chunk c.
  __device__ __forceinline__ float operator()(int c, int i) const {
    return of[c / Config::kChunksAcross][i / 2 % 2];
  }
};

// C = scale[row] * acc.
template <class Config>
class StoreEpilogue {
 public:
  struct Params {
    const float* row_scale;  // [rows], or null
    int rows;
  };
  static constexpr bool kInput = false;

  __device__ __forceinline__ StoreEpilogue(const Params& params, const GemmTileAt& at)
      : scale_(params.row_scale, params.rows, at) {}
  __device__ __forceinline__ void chunk(int c, int, int, float (&v)[32], const uint32_t (&)[16]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) v[i] *= scale_(c, i);
  }
  __device__ __forceinline__ void finish() {}

 private:
  RowScale<Config> scale_;
};

// C = input + scale[column] * acc.
template <class Config>
class AddEpilogue {
 public:
  struct Params {
    const float* column_scale;  // [columns], or null
    int columns;
  };
  static constexpr bool kInput = true;
  static constexpr bool kPrepares = false;

  __device__ __forceinline__ AddEpilogue(const Params& params, const GemmTileAt&)
      : params_(params) {}
  __device__ __forceinline__ void chunk(int, int, int column, float (&v)[32],
                                        const uint32_t (&in)[16]) {
    // Columns come in multiples of 64: a chunk is inside or outside as a whole.
    const bool scaled = params_.column_scale != nullptr && column < params_.columns;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float2 scale = {1.0f, 1.0f};
      if (scaled)
        scale = __ldg(reinterpret_cast<const float2*>(params_.column_scale + column + 8 * j));
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 add = unpack_bf16(in[2 * j + h]);
        float& low = v[4 * j + 2 * h];
        float& high = v[4 * j + 2 * h + 1];
        low = fmaf(scale.x, low, add.x);
        high = fmaf(scale.y, high, add.y);
      }
    }
  }
  __device__ __forceinline__ void finish() {}

 private:
  const Params& params_;
};

}  // namespace fairway::sm90
