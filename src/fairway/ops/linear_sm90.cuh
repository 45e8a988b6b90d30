// The gradient of the input of linear maps, in bf16 on Hopper GPUs.
//
// All matrices are row-major and contiguous, in device memory, start at multiples of 16 bytes and
// are owned by the caller; widths (in, out) are multiples of 64. Sums are float. A row's bits
// depend on that row and the widths alone, not on how many rows there are or where the row stands.
// Launches are asynchronous on `stream`, allocate nothing and may be captured in a graph; they
// throw Error if the launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

// Widths of a matrix that our products on Hopper have tiles for.
inline bool widths_fit(int64_t in, int64_t out) {
  return in % 64 == 0 && out % 64 == 0;
}

// dx [rows, in] = Σ_i dy[i] w[i] for three linear maps of one input, rounded once: dy[i] [rows,
// out[i]]; the w[i] [out[i], in] transposed and beside each other: [in, Σ out[i]].
void linear_three_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                 const bf16* w_transposed, int64_t rows, int64_t in,
                                 const int64_t out[3], bf16* dx);

}  // namespace fairway::cuda
