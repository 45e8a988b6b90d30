// The MLP's epilogues behind products of e4m3 operands. What an operand was multiplied by is undone
// on the sums; f and dz are written as operands alone.
#pragma once

#include <cuda_fp16.h>

#include "fairway/base/e4m3_cuda.cuh"
#include "fairway/ops/leaky_sq_epilogues_sm90.cuh"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/sm90/gemm_wide.cuh"

namespace fairway::cuda {

// The exponents of a thread's two rows of a matrix of `rows`; 0 outside of it.
struct RowExponents {
  int32_t of[2];

  __device__ __forceinline__ void load(const int32_t* exponents, int rows,
                                       const sm90::TileElements& at) {
    const int row = rows - at.rows_left;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      of[half] = 8 * half < at.rows_left ? exponents[row + 8 * half] : 0;
  }
};

// z → f as an operand, and z rounded, where it is kept.
template <bool kKeepZ>
class LeakySqE4m3Epilogue {
 public:
  struct Params {
    e4m3 *f, *z;
    int rows, columns;
    const int32_t* exponents;  // [kE4m3Exponents]
  };

  __device__ __forceinline__ LeakySqE4m3Epilogue(const Params& params, const GemmTileAt& at)
      : params_(params), at_(at, params.rows, params.columns) {}

  __device__ __forceinline__ void early(int c) {
    if (c != 0) return;
    const int32_t* const e = params_.exponents;
    const int z = __ldg(e + kE4m3Z);
    scale_z_ = power_of_two(z - __ldg(e + kE4m3N)) * power_of_two(-__ldg(e + kE4m3Up));
    scale_f_ = power_of_two(__ldg(e + kE4m3F) - 2 * z);
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int i = 0; i < 8; ++i) v[p][i] *= scale_z_;
      const bool valid = at_.has_row(p);
      if constexpr (kKeepZ)
        sm90::store_global_8(params_.z + at_.offset(c, p), pack_e4m3_8(v[p]), valid);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float leaky = fmaxf(v[p][i], 0.5f * v[p][i]);
        v[p][i] = leaky * (leaky * scale_f_);
      }
      sm90::store_global_8(params_.f + at_.offset(c, p), pack_e4m3_8(v[p]), valid);
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  const Params& params_;
  sm90::TileElements at_;
  float scale_z_, scale_f_;
};

// The lower two of four elements.
__device__ __forceinline__ float2 unpack_e4m3(uint32_t four) {
  uint32_t pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<uint16_t>(four)));
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// df → dz as an operand.
class LeakySqE4m3BackwardEpilogue {
 public:
  struct Params {
    const e4m3* z;
    e4m3* dz;  // may be z
    int rows, columns;
    const int32_t* exponents;     // [kE4m3Exponents]
    const int32_t* dm_exponents;  // [rows]
    float* half_dots;             // as LeakySqBackwardEpilogue's
  };

  __device__ __forceinline__ LeakySqE4m3BackwardEpilogue(const Params& params, const GemmTileAt& at)
      : params_(params), at_(at, params.rows, params.columns) {}

  __device__ __forceinline__ void early(int c) {
    if (c == 0) {
      // From df·2^(dm's + down's) and z·2^(z's) to dz·2^(dm's + dz's).
      const int32_t* const e = params_.exponents;
      const float scale = power_of_two(__ldg(e + kE4m3Dz) - __ldg(e + kE4m3Down)) *
                          power_of_two(-__ldg(e + kE4m3Z));
      positive_ = 2.0f * scale;
      negative_ = 0.5f * scale;
    }
#pragma unroll
    for (int p = 0; p < 4; ++p)
      in_[c][p] = sm90::load_global_8(params_.z + at_.offset(c, p), at_.valid(c, p));
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const uint32_t fours[2] = {in_[c][p].x + zero, in_[c][p].y + zero};
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float2 z = unpack_e4m3(fours[i / 4] >> (i % 4 * 8));
        v[p][i] *= fmaxf(z.x * positive_, z.x * negative_);
        v[p][i + 1] *= fmaxf(z.y * positive_, z.y * negative_);
        sums_[p % 2] = fmaf(z.x, v[p][i], sums_[p % 2]);
        sums_[p % 2] = fmaf(z.y, v[p][i + 1], sums_[p % 2]);
      }
      sm90::store_global_8(params_.dz + at_.offset(c, p), pack_e4m3_8(v[p]), at_.has_row(p));
    }
  }

  __device__ __forceinline__ void finish() {
    if (params_.half_dots == nullptr) return;
    RowExponents dm;
    dm.load(params_.dm_exponents, params_.rows, at_);
    const int32_t* const e = params_.exponents;
    const float scale = 0.5f * power_of_two(-__ldg(e + kE4m3Z));
    const int dz = __ldg(e + kE4m3Dz);
#pragma unroll
    for (int half = 0; half < 2; ++half) sums_[half] *= power_of_two(-(dm.of[half] + dz)) * scale;
    store_tile_sums(sums_, at_, params_.rows, params_.columns, params_.half_dots);
  }

 private:
  const Params& params_;
  sm90::TileElements at_;
  float positive_, negative_;     // f'(z)/z, with all scales
  float sums_[2] = {0.0f, 0.0f};  // of the thread's two rows, before scales are undone
  uint2 in_[sm90::WideConfig<>::kChunks][4];
};

// The sums by themselves, or with a residual, in bf16.
template <bool kResidual, bool kOfRows>
class ScaledE4m3Epilogue {
 public:
  struct Params {
    const bf16* residual;
    bf16* c;  // may be the residual
    int rows, columns;
    const int32_t* exponents;      // [kE4m3Exponents]
    E4m3Exponent a, b;             // the operands'
    const int32_t* row_exponents;  // [rows] added to a's
  };

  __device__ __forceinline__ ScaledE4m3Epilogue(const Params& params, const GemmTileAt& at)
      : params_(params), at_(at, params.rows, params.columns) {}

  __device__ __forceinline__ void early(int c) {
    if constexpr (kResidual) in_.early(params_.residual, at_, c);
    if (c != 0) return;
    if constexpr (kOfRows) rows_.load(params_.row_exponents, params_.rows, at_);
    a_ = __ldg(params_.exponents + params_.a);
    b_ = __ldg(params_.exponents + params_.b);
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int a = kOfRows ? a_ + rows_.of[p % 2] : a_;
      const float scale = power_of_two(-a) * power_of_two(-b_);
      if constexpr (kResidual) {
        const uint4 residual = in_.take(params_.residual, at_, c, p);
        const uint32_t pairs[4] = {residual.x, residual.y, residual.z, residual.w};
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          const auto [low, high] = sm90::unpack_bf16_late(pairs[i / 2], zero);
          v[p][i] = fmaf(v[p][i], scale, low);
          v[p][i + 1] = fmaf(v[p][i + 1], scale, high);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[p][i] *= scale;
      }
      sm90::store_global_16(params_.c + at_.offset(c, p), v[p], at_.has_row(p));
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  const Params& params_;
  sm90::TileElements at_;
  RowExponents rows_;
  int32_t a_, b_;
  sm90::TileRows<3> in_;  // with a residual only
};

}  // namespace fairway::cuda
