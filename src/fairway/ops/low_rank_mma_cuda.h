// Low-rank products of bf16 rows on tensor cores. Internal to ops/.
#pragma once

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// The largest rank that the kernels hold in registers.
inline constexpr int64_t kMmaRank = 256;

// Rows are read and written 16 bytes at a time.
bool low_rank_fits_mma(const LowRankPairs<const float>& pairs, const bf16* in_rows,
                       const bf16* out_rows, const bf16* more_rows);

void low_rank_mma(CudaDevice& device, Tensor<const bf16> x, const LowRankPairs<const float>& pairs,
                  Tensor<bf16> y);
void low_rank_backward_mma(CudaDevice& device, Tensor<const bf16> dy, Tensor<const bf16> x,
                           const LowRankPairs<const float>& pairs, Tensor<bf16> dx,
                           const LowRankPairs<float>& dpairs);

}  // namespace fairway
