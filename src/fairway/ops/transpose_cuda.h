// Transposed copies of weights, for products that want both operands contiguous along K.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

// w [rows, columns] → out [columns, rows], rows of out `stride` elements apart.
void transpose(cudaStream_t stream, const bf16* w, int64_t rows, int64_t columns, bf16* out,
               int64_t stride);

}  // namespace fairway::cuda
