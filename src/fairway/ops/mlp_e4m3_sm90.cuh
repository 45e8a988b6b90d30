// The products of rows in the MLP of ops/mlp_e4m3.h, on Hopper GPUs, and what makes their operands.
// Legend and exponents as there; `exponents` are one layer's, [kE4m3Exponents], in device memory,
// as dm's of each row are. The weights' gradients: mlp_e4m3_weights_sm90.cuh.
//
// All matrices are row-major and contiguous, in device memory, start at multiples of 16 bytes and
// are owned by the caller; D and F are multiples of 128. Sums are float, of which the tensor cores
// keep some 13 bits below the largest term (sm90/wgmma.cuh). A row's bits depend on that row and
// the matrices alone. Launches are asynchronous on `stream`, allocate nothing and may be captured
// in a graph; they throw Error if the launch fails.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/e4m3.h"
#include "fairway/ops/mlp_e4m3.h"

namespace fairway::cuda {

// n [T, D] and wup [F, D] as operands → f [T, F] = f(z) as one, and z [T, F] rounded (null: not
// kept).
void mlp_e4m3_up(cudaStream_t stream, const e4m3* n, const e4m3* wup, const int32_t* exponents,
                 int64_t T, int64_t D, int64_t F, e4m3* f, e4m3* z);

// f [T, F] and wdown [D, F] as operands → y [T, D] = residual + f wdownᵀ; a null residual:
// without. y may be the residual.
void mlp_e4m3_down(cudaStream_t stream, const e4m3* f, const e4m3* wdown, const int32_t* exponents,
                   const bf16* residual, int64_t T, int64_t D, int64_t F, bf16* y);

// dm [T, D] and wdownᵀ [F, D] as operands, z as mlp_e4m3_up left it → dz [T, F] = (dm wdown)⊙f'(z)
// as an operand, which may be z itself. half_dots as of leaky_sq_down_backward: z·dz/2 before dz is
// rounded.
void mlp_e4m3_down_backward(cudaStream_t stream, const e4m3* dm, const int32_t* dm_exponents,
                            const e4m3* wdown_transposed, const int32_t* exponents, const e4m3* z,
                            int64_t T, int64_t D, int64_t F, e4m3* dz, float* half_dots);

// dz [T, F] and wupᵀ [D, F] as operands → dn [T, D] = dz wup. (Through the norm before it:
// linear_norm_back.)
void mlp_e4m3_up_backward(cudaStream_t stream, const e4m3* dz, const int32_t* dm_exponents,
                          const e4m3* wup_transposed, const int32_t* exponents, int64_t T,
                          int64_t D, int64_t F, bf16* dn);

// --- operands ---------------------------------------------------------------------------------

// n [T, D] → its operand.
void mlp_e4m3_operand_n(cudaStream_t stream, const bf16* n, const int32_t* exponents, int64_t T,
                        int64_t D, e4m3* operand);

// dm [T, D] → its operand, and the exponents of its rows [T].
void mlp_e4m3_operand_dm(cudaStream_t stream, const bf16* dm, int64_t T, int64_t D, e4m3* operand,
                         int32_t* dm_exponents);

// w [layers, rows, columns] → of each layer the operand [rows, columns] and behind it its
// transpose; `which` of the layers' exponents [layers, kE4m3Exponents] is theirs. rows and columns
// are multiples of 64.
void mlp_e4m3_operand_weights(cudaStream_t stream, const bf16* w, const int32_t* exponents,
                              E4m3Exponent which, int64_t layers, int64_t rows, int64_t columns,
                              e4m3* operands);

}  // namespace fairway::cuda
