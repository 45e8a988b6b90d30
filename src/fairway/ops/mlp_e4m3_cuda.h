// What the ways of computing ops/mlp_e4m3.h on CUDA share. Internal to ops/*_cuda.*.
#pragma once

#include <cstdint>
#include <span>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/mlp_e4m3.h"

namespace fairway {

// Fills all of exponents [L, kE4m3Exponents] from wup [L, F, D] and wdown [L, D, F].
template <class T>
void mlp_e4m3_exponents(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                        std::span<const double> ln, Tensor<int32_t> exponents);

// exponents[t] = e4m3_exponent of the largest magnitude in row t of x [rows, D].
template <class T>
void e4m3_row_exponents(CudaDevice& device, Tensor<const T> x, int32_t* exponents);

// to[i] = as_e4m3(from[i], e), n elements, e = *exponent plus, where there are any, that of the row
// of `width` elements. `to` may be `from`.
template <class T>
void round_to_e4m3(CudaDevice& device, int64_t n, const T* from, const int32_t* exponent,
                   const int32_t* row_exponents, int64_t width, T* to);

}  // namespace fairway
