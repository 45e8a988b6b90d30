// The gradients of low-rank adapters on Hopper GPUs. Internal to ops/.
#pragma once

#include <span>

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// Where the kernels apply, besides what low_rank_fits_mma demands; all of it is about speed or the
// alignment of eight elements of a gradient.
bool low_rank_ups_backward_fits_sm90(const CudaDevice& device,
                                     std::span<const LowRankUpBackward<bf16>> ups,
                                     Tensor<const bf16> dxa);
bool low_rank_down_gradient_fits_sm90(const CudaDevice& device, int64_t rows,
                                      const LowRankDown<bf16>& da);

void low_rank_ups_backward_sm90(CudaDevice& device, std::span<const LowRankUpBackward<bf16>> ups,
                                Tensor<const bf16> xa, Tensor<bf16> dxa);
// For each document of `down` da_i = dxa_iᵀ x.
void low_rank_down_gradient_sm90(CudaDevice& device, Tensor<const bf16> dxa, Tensor<const bf16> x,
                                 const LowRankDown<const float>& down, const LowRankDown<bf16>& da);

}  // namespace fairway
