// Linear maps with adapters in one product on Hopper GPUs. Conventions for operands and
// launches are those of linear_sm90.cuh; a row's bits do not depend on other documents.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/e4m3.h"
#include "fairway/ops/adapter_operands_sm90.h"

namespace fairway::cuda {

// y [rows, out] = residual + x wᵀ + the adapter's, rounded once; x [rows, in], w [out, in]. A null
// residual: without; y may be the residual.
void linear_adapted(cudaStream_t stream, const bf16* x, const bf16* w, const bf16* residual,
                    const AdapterOperands& adapters, int64_t rows, int64_t in, int64_t out,
                    bf16* y);

// The same with x and w as e4m3 operands, x times 2^*x_exponent and w times 2^*w_exponent, in
// device memory; `in` is a multiple of 128.
void linear_adapted(cudaStream_t stream, const e4m3* x, const int32_t* x_exponent, const e4m3* w,
                    const int32_t* w_exponent, const bf16* residual,
                    const AdapterOperands& adapters, int64_t rows, int64_t in, int64_t out,
                    bf16* y);

// y [rows, out] = the adapters' alone; `out` is a multiple of 32. Fastest if it fills tiles of 256,
// 192 or 128 columns.
void adapters_alone(cudaStream_t stream, const AdapterOperands& adapters, int64_t rows, int64_t out,
                    bf16* y);

// linear_three_backward_input, and the adapters'.
void linear_three_adapted_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                         const bf16* w_transposed, const AdapterOperands& adapters,
                                         int64_t rows, int64_t in, const int64_t out[3], bf16* dx);

}  // namespace fairway::cuda
