// The gradients of Wup and Wdown from e4m3 operands (ops/mlp_e4m3.h), on Hopper GPUs. Legend,
// exponents and conventions as of mlp_e4m3_sm90.cuh.
//
// Both are sums over rows: dWdown = dmᵀ f, dWup = dzᵀ n. e4m3 products want their operands
// contiguous along the sum. f and dz are read as they lie and transposed on the way to registers;
// dm and n, which are narrow and need a scale of their own here, are written anew as columns.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/e4m3.h"

namespace fairway::cuda {

// dm and n [D, width(T)], zeros behind the last row, and the exponent E that dm has in all rows.
// Of every 16 rows number 2 q + e lies at 4 q + e and number 8 + 2 q + e at 4 q + 2 + e (q < 4,
// e < 2): so the bytes of a transposed 8 x 8 matrix of pairs come out of ldmatrix.
struct MlpE4m3Columns {
  e4m3 *dm, *n;
  int32_t* exponent;

  static int64_t width(int64_t T) { return (T + 15) / 16 * 16; }
};

// dm and n [T, D] and the exponents of dm's rows [T], from a multiple of 16 bytes on → all of `to`.
void mlp_e4m3_operand_columns(cudaStream_t stream, const bf16* dm, const bf16* n,
                              const int32_t* dm_exponents, const int32_t* exponents, int64_t T,
                              int64_t D, const MlpE4m3Columns& to);

// Rows of a slice whose products the tensor cores add up; what comes after is added as floats.
inline constexpr int kMlpE4m3SpanRows = 2048;

// Into how many slices of rows the sums are cut, so that there is work for all of the device's
// multiprocessors; and the room for the sums of all.
int mlp_e4m3_weight_slices(int64_t T, int64_t D, int64_t F, int multiprocessors);
size_t mlp_e4m3_weight_bytes(int64_t D, int64_t F, int slices);

// f [T, F] as an operand → dwdown [D, F] += dmᵀ f. `partial`:
// mlp_e4m3_weight_bytes of scratch.
void mlp_e4m3_down_weight(cudaStream_t stream, const MlpE4m3Columns& columns, const e4m3* f,
                          const int32_t* exponents, int64_t T, int64_t D, int64_t F, int slices,
                          float* partial, float* dwdown);

// dz [T, F] as an operand → dwup [F, D] += dzᵀ n.
void mlp_e4m3_up_weight(cudaStream_t stream, const MlpE4m3Columns& columns, const e4m3* dz,
                        const int32_t* exponents, int64_t T, int64_t D, int64_t F, int slices,
                        float* partial, float* dwup);

}  // namespace fairway::cuda
