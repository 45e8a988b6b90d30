// The fused halves of the MLP m = f(n Wupᵀ) Wdownᵀ in bf16 on Hopper GPUs, f(z) = max(z, z/2)²:
// products whose epilogues apply f and its derivative. The plain products around them are in
// linear_sm90.cuh, with the conventions for operands and launches.
//
// The backward pass does not keep z: f'(z) = 2z = 2√f for z > 0, else z/2 = −√f, so f(z) and one
// sign bit per element are enough. The sign bits' order is private to these kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

// Bytes of the sign buffer for [rows, hidden_width]; alignment 16.
size_t leaky_sq_sign_bytes(int64_t rows, int64_t hidden_width);

// n [rows, width], wup [hidden_width, width] → hidden [rows, hidden_width] = f(z), z = n wupᵀ, and
// the signs of z; signs may be null: not kept.
void leaky_sq_up(cudaStream_t stream, const bf16* n, const bf16* wup, int64_t rows, int64_t width,
                 int64_t hidden_width, bf16* hidden, void* signs);

// dm [rows, width], wdownᵀ [hidden_width, width], hidden and signs as leaky_sq_up left them for the
// same sizes → dz [rows, hidden_width] = (dm wdown) · f'(z). dz may be hidden itself.
// half_dots [leaky_sq_dot_tiles, rows]: sums of f·df = z·dz/2, df = dm wdown, that add up to a
// row's; null: not wanted.
void leaky_sq_down_backward(cudaStream_t stream, const bf16* dm, const bf16* wdown_transposed,
                            const bf16* hidden, const void* signs, int64_t rows, int64_t width,
                            int64_t hidden_width, bf16* dz, float* half_dots);
int64_t leaky_sq_dot_tiles(int64_t hidden_width);

}  // namespace fairway::cuda
