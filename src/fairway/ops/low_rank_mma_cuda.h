// Low-rank products of bf16 rows on tensor cores. Internal to ops/.
#pragma once

#include <cstdint>
#include <span>

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// Whether the kernels can: rows of `rank` and `wide` elements, and all these arrays, are read and
// written 16 bytes at a time.
bool low_rank_fits_mma(int64_t rank, int64_t wide, const bf16* a, const bf16* b,
                       const bf16* c = nullptr);

void low_rank_down_mma(CudaDevice& device, Tensor<const bf16> x,
                       const LowRankDown<const float>& down, Tensor<bf16> xa);
void low_rank_up_mma(CudaDevice& device, Tensor<const bf16> xa, const LowRankUp<const float>& up,
                     Tensor<bf16> y);
void low_rank_ups_backward_mma(CudaDevice& device, std::span<const LowRankUpBackward<bf16>> ups,
                               Tensor<const bf16> xa, Tensor<bf16> dxa);
void low_rank_down_backward_mma(CudaDevice& device, Tensor<const bf16> dxa, Tensor<const bf16> x,
                                const LowRankDown<const float>& down, Tensor<bf16> dx,
                                const LowRankDown<bf16>& da);

}  // namespace fairway
