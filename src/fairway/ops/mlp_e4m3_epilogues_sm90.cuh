// The MLP's epilogues behind products of e4m3 operands. What an operand was multiplied by is undone
// on the sums; what becomes an operand of the next product is written twice, rounded to bf16 and
// from there to e4m3.
#pragma once

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

// z → f in bf16, the signs of z, and f as an operand.
class LeakySqE4m3Epilogue {
 public:
  struct Params {
    bf16* f;
    e4m3* f_operand;
    int rows, columns;
    uint4* signs;              // [GemmTileAt::slot]
    const int32_t* exponents;  // [kE4m3Exponents]
  };

  __device__ __forceinline__ LeakySqE4m3Epilogue(const Params& params, const GemmTileAt& at)
      : params_(params), at_(at, params.rows, params.columns), slot_(at.slot) {}

  __device__ __forceinline__ void early(int c) {
    if (c != 0) return;
    scale_z_ = power_of_two(-__ldg(params_.exponents + kE4m3N)) *
               power_of_two(-__ldg(params_.exponents + kE4m3Up));
    scale_f_ = power_of_two(__ldg(params_.exponents + kE4m3F));
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t) {
    uint32_t word = 0;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float z = v[p][i] * scale_z_;
        word = __funnelshift_l(__float_as_uint(z), word, 1);
        const float leaky = fmaxf(z, 0.5f * z);
        v[p][i] = leaky * leaky;
      }
      const uint4 f = pack_bf16_8(v[p]);
      const bool valid = at_.has_row(p);
      sm90::store_global_16(params_.f + at_.offset(c, p), f, valid);
      sm90::store_global_8(params_.f_operand + at_.offset(c, p), e4m3_of_bf16(f, scale_f_), valid);
    }
    signs_.word[c] = word;
  }

  __device__ __forceinline__ void finish() {
    params_.signs[slot_] = {signs_.word[0], signs_.word[1], signs_.word[2], signs_.word[3]};
  }

 private:
  const Params& params_;
  sm90::TileElements at_;
  int64_t slot_;
  float scale_z_, scale_f_;
  Signs signs_;
};

// df → dz in bf16, and dz as an operand.
class LeakySqE4m3BackwardEpilogue {
 public:
  struct Params {
    const bf16* f;
    bf16* dz;  // may be f
    e4m3* dz_operand;
    int rows, columns;
    const uint4* signs;
    const int32_t* exponents;     // [kE4m3Exponents]
    const int32_t* dm_exponents;  // [rows]
    float* half_dots;             // as LeakySqBackwardEpilogue's
  };

  __device__ __forceinline__ LeakySqE4m3BackwardEpilogue(const Params& params, const GemmTileAt& at)
      : params_(params), at_(at, params.rows, params.columns) {
    const uint4 signs = __ldg(params.signs + at.slot);
    signs_ = {signs.x, signs.y, signs.z, signs.w};
  }

  __device__ __forceinline__ void early(int c) {
    if (c == 0) {
      df_.load(params_.dm_exponents, params_.rows, at_);
      const int down = __ldg(params_.exponents + kE4m3Down);
      dz_ = __ldg(params_.exponents + kE4m3Dz) - down;
#pragma unroll
      for (int half = 0; half < 2; ++half) df_.of[half] += down;
    }
    in_.early(params_.f, at_, c);
  }

  __device__ __forceinline__ void chunk(int c, float (&v)[4][8], uint32_t zero) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float scale = power_of_two(-df_.of[p % 2]);
      const uint4 f = in_.take(params_.f, at_, c, p);
      const uint32_t pairs[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const auto [low, high] = sm90::unpack_bf16_late(pairs[i / 2], zero);
        sums_[p % 2] = fmaf(low, v[p][i], sums_[p % 2]);
        sums_[p % 2] = fmaf(high, v[p][i + 1], sums_[p % 2]);
        v[p][i] *= fast_sqrt(low) * slope(c, 8 * p + i, scale);
        v[p][i + 1] *= fast_sqrt(high) * slope(c, 8 * p + i + 1, scale);
      }
      const uint4 dz = pack_bf16_8(v[p]);
      const bool valid = at_.has_row(p);
      sm90::store_global_16(params_.dz + at_.offset(c, p), dz, valid);
      sm90::store_global_8(params_.dz_operand + at_.offset(c, p),
                           e4m3_of_bf16(dz, power_of_two(df_.of[p % 2] + dz_)), valid);
    }
  }

  __device__ __forceinline__ void finish() {
    if (params_.half_dots == nullptr) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) sums_[half] *= power_of_two(-df_.of[half]);
    store_tile_sums(sums_, at_, params_.rows, params_.columns, params_.half_dots);
  }

 private:
  // f'(z) over the root of f(z), times `scale`.
  __device__ __forceinline__ float slope(int c, int bit, float scale) const {
    return (signs_.word[c] & (0x80000000u >> bit)) != 0 ? -scale : 2.0f * scale;
  }

  const Params& params_;
  sm90::TileElements at_;
  RowExponents df_;  // of the sums' scale
  int32_t dz_;       // dz's scale over df's
  Signs signs_;
  float sums_[2] = {0.0f, 0.0f};  // of the thread's two rows, before df's scale is undone
  sm90::TileRows<2> in_;
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
