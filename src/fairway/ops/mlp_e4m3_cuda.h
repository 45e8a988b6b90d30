// What the ways of computing ops/mlp_e4m3.h on CUDA share. Internal to ops/*_cuda.*.
#pragma once

#include <cstdint>
#include <span>

#include "fairway/base/tensor.h"
#include "fairway/device/cuda_device.h"

namespace fairway {

// Fills all of exponents [L, kE4m3Exponents] from wup [L, F, D] and wdown [L, D, F].
template <class T>
void mlp_e4m3_exponents(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                        std::span<const double> ln, Tensor<int32_t> exponents);

// exponents[t] = e4m3_exponent of the largest magnitude in row t of x [rows, width].
template <class T>
void e4m3_row_exponents(CudaDevice& device, Tensor<const T> x, int32_t* exponents);

// to = as_e4m3(x, e), x [rows, width]: e = *exponent (null: 0) + row_exponents[t] (null: 0). `to`
// may be x.
template <class T>
void round_rows_to_e4m3(CudaDevice& device, Tensor<const T> x, const int32_t* exponent,
                        const int32_t* row_exponents, T* to);

}  // namespace fairway
