// What the ways of computing ops/mlp_e4m3.h on CUDA share. Internal to ops/*_cuda.*.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "fairway/base/tensor.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway {

// Fills all of exponents [L, kE4m3Exponents] from wup [L, F, D] and wdown [L, D, F].
template <class T>
void mlp_e4m3_exponents(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                        std::span<const double> ln, Tensor<int32_t> exponents);

// exponents[t] = e4m3_exponent of the largest magnitude in row t of x [rows, width]; *least = the
// least of them. `exponents` begins at a multiple of 16 bytes.
template <class T>
void e4m3_row_exponents(CudaDevice& device, Tensor<const T> x, int32_t* exponents, int32_t* least);

// *least = the least of exponents [n], which begin at a multiple of 16 bytes.
void least_exponent(cudaStream_t stream, const int32_t* exponents, int64_t n, int32_t* least);

// to = as_e4m3(x, e), x [rows, width]: e = *exponent (null: 0) + row_exponents[t] (null: 0). `to`
// may be x.
template <class T>
void round_rows_to_e4m3(CudaDevice& device, Tensor<const T> x, const int32_t* exponent,
                        const int32_t* row_exponents, T* to);

// The same with e4m3_exponent_beside_dz: n as dWup's product reads it.
template <class T>
void round_rows_beside_dz(CudaDevice& device, Tensor<const T> n, const int32_t* exponent,
                          const int32_t* row_exponents, const int32_t* least, T* to);

// df [rows, F] → dz = as_e4m3(df⊙f'(z), e), e as dz's, in its place; z as the op rounds it.
template <class T>
void round_dz_to_e4m3(CudaDevice& device, Tensor<const T> z, const int32_t* exponents,
                      const int32_t* row_exponents, Tensor<T> dz);

}  // namespace fairway
