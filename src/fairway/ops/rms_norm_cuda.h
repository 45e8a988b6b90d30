// The CUDA RMS norm with what other ops fuse with it. Internal to ops/*_cuda.*.
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/e4m3.h"
#include "fairway/base/tensor.h"
#include "fairway/device/cuda_device.h"

namespace fairway {

// n[r] = scale · x[pick[r]] · rstd[r] for r < rows; pick null: x[r]. Elements of x and n: D a row.
template <class T>
void rms_norm_rows(CudaDevice& device, const T* x, const int32_t* pick, int64_t rows, int64_t D,
                   double eps, double scale, Accum<T>* rstd, T* n, const char* name);

// rms_norm, and n as an operand [T, D]: Q(n·2^e), e = *exponent (ops/mlp_e4m3.h). D is a multiple
// of 8, and matrices start at multiples of 16 bytes.
void rms_norm_e4m3(CudaDevice& device, Tensor<const bf16> x, double eps, double scale,
                   Tensor<float> rstd, Tensor<bf16> n, const int32_t* exponent, e4m3* operand);

}  // namespace fairway
