// The gradients of the matrices of three linear maps of one input, in bf16 on Hopper GPUs: one
// product, which reads the input once.
//
// All matrices are row-major and contiguous, in device memory, start at multiples of 16 bytes and
// are owned by the caller; widths (in, out) are multiples of 64. Launches are asynchronous on
// `stream`, allocate nothing and may be captured in a graph; they throw Error if the launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

struct WeightGradients {
  const bf16* dy[3];  // [rows, out[i]]
  const bf16* x;      // [rows, in]
  int64_t rows, in, out[3];
  float* dw[3];  // [out[i], in]
};

// Into how many slices of rows the sums are cut, so that there is work for all of the device's
// multiprocessors; and the room for the sums of all.
int linear_three_backward_weight_slices(const WeightGradients& gradients, int multiprocessors);
size_t weight_gradients_bytes(const WeightGradients& gradients, int slices);

// dw[i] += dy[i]ᵀ x. `partial`: weight_gradients_bytes of scratch. Sums are float, over a slice's
// rows and then over the slices, in order.
void linear_three_backward_weight(cudaStream_t stream, const WeightGradients& gradients, int slices,
                                  float* partial);

}  // namespace fairway::cuda
