// The input's gradient of an output projection in bf16 on Hopper GPUs, with exclusive attention's
// backward in the product's epilogue. Conventions for operands and launches are those of
// linear_sm90.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

// Heads of 64 in groups of 1, 2 or 4, and a width of dout that is a multiple of 64.
bool linear_xsa_backward_fits(int64_t width, int64_t heads, int64_t kv_heads, int64_t head_dim);

// See ops/linear_xsa.h.
struct LinearXsaBackward {
  const bf16 *dout, *w_transposed;  // [rows, width], [heads · 64, width]
  const bf16 *y2, *v;
  const float* y_dot_v;
  int64_t rows, width, heads, kv_heads;
  bf16 *dy, *dv;
  float* delta;
};
void linear_xsa_backward(cudaStream_t stream, const LinearXsaBackward& op);

}  // namespace fairway::cuda
