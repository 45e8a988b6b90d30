// The second half of adapters that are as wide as a vocabulary, in bf16. Internal to ops/.
#pragma once

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// Where the kernels apply, besides what low_rank_fits_mma demands. Of adapters that are narrower
// than a vocabulary, which have more rows to a document, other kernels make more. (Those of a model
// as wide as 2,048 come here too, and B and dB pass through memory for every 32 rows.) `db` may be
// null.
bool low_rank_fits_wide(const LowRankUp<const float>& up, const bf16* db = nullptr);

void low_rank_up_wide(CudaDevice& device, Tensor<const bf16> xa, const LowRankUp<const float>& up,
                      Tensor<bf16> y);
void low_rank_up_backward_wide(CudaDevice& device, const LowRankUpBackward<bf16>& one,
                               Tensor<const bf16> xa, Tensor<bf16> dxa);

}  // namespace fairway
