// Linear maps in bf16 on Hopper GPUs: y = x Wᵀ with W stored [out, in].
//
// All matrices are row-major and contiguous, in device memory, start at multiples of 16 bytes and
// are owned by the caller; widths (in, out) are multiples of 64. Sums are float. A row's bits
// depend on that row and the widths alone, not on how many rows there are or where the row stands;
// weight gradients depend on the shape alone. Launches are asynchronous on `stream`, allocate
// nothing and may be captured in a graph; they throw Error if the launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

// x [rows, in], w [out, in] → y [rows, out] = row_scale[row] · x wᵀ; row_scale [rows] may be null.
void linear(cudaStream_t stream, const bf16* x, const bf16* w, const float* row_scale, int64_t rows,
            int64_t in, int64_t out, bf16* y);

// y [rows, out] = residual + column_scale[column] · x wᵀ. residual [rows, out] may be y itself: y
// accumulates. column_scale [out] may be null: 1.
void linear_add(cudaStream_t stream, const bf16* x, const bf16* w, const bf16* residual,
                const float* column_scale, int64_t rows, int64_t in, int64_t out, bf16* y);

// dy [rows, out], w [out, in] → dx [rows, in] = dy w, or += with `accumulate`.
void linear_backward_input(cudaStream_t stream, const bf16* dy, const bf16* w, int64_t rows,
                           int64_t in, int64_t out, bool accumulate, bf16* dx);

// dy [rows, out], x [rows, in] → dw [out, in] += dyᵀ x in float. workspace: device memory of
// linear_backward_weight_workspace bytes (may be 0) whose contents are lost. The sums over rows are
// split in a way that depends on the shape alone and added in a fixed order.
void linear_backward_weight(cudaStream_t stream, const bf16* dy, const bf16* x, int64_t rows,
                            int64_t in, int64_t out, float* workspace, float* dw);
size_t linear_backward_weight_workspace(int64_t rows, int64_t in, int64_t out);

// Three linear maps of one input: y[i] [rows, out[i]] = row_scale[row] · x w[i]ᵀ.
void linear_three(cudaStream_t stream, const bf16* x, const bf16* const w[3],
                  const float* row_scale, int64_t rows, int64_t in, const int64_t out[3],
                  bf16* const y[3]);

// dx [rows, in] = Σ_i dy[i] w[i], rounded once; or += with `accumulate`.
void linear_three_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                 const bf16* const w[3], int64_t rows, int64_t in,
                                 const int64_t out[3], bool accumulate, bf16* dx);

}  // namespace fairway::cuda
