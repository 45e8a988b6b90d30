// RMS norm without weight: n = scale · x · rstd, rstd = 1/sqrt(mean(x²) + eps) per row.
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// x [T, D] → rstd [T], n [T, D].
template <class T>
void rms_norm(CpuDevice& device, Tensor<const T> x, double eps, double scale, Tensor<T> rstd,
              Tensor<T> n);
template <class T>
void rms_norm(CudaDevice& device, Tensor<const T> x, double eps, double scale,
              Tensor<Accum<T>> rstd, Tensor<T> n);

// From the norm's output: dx += rstd·(scale·dn − n·mean(dn⊙n)/scale).
template <class T>
void rms_norm_backward(CpuDevice& device, Tensor<const T> dn, Tensor<const T> n,
                       Tensor<const T> rstd, double scale, Tensor<T> dx);
template <class T>
void rms_norm_backward(CudaDevice& device, Tensor<const T> dn, Tensor<const T> n,
                       Tensor<const Accum<T>> rstd, double scale, Tensor<T> dx);

// The same with dx written, for a norm of scale 1.
template <class T>
void rms_norm_backward_write(CpuDevice& device, Tensor<const T> dn, Tensor<const T> n,
                             Tensor<const T> rstd, Tensor<T> dx);
template <class T>
void rms_norm_backward_write(CudaDevice& device, Tensor<const T> dn, Tensor<const T> n,
                             Tensor<const Accum<T>> rstd, Tensor<T> dx);

// y[r] = x[rows[r]]: x [T, D], rows [N], y [N, D].
template <class T>
void gather_rows(CpuDevice& device, Tensor<const T> x, Tensor<const int32_t> rows, Tensor<T> y);
template <class T>
void gather_rows(CudaDevice& device, Tensor<const T> x, Tensor<const int32_t> rows, Tensor<T> y);
// Its backward: x[rows[r]] += y[r]. No row may come twice.
template <class T>
void add_rows(CpuDevice& device, Tensor<const T> y, Tensor<const int32_t> rows, Tensor<T> x);
template <class T>
void add_rows(CudaDevice& device, Tensor<const T> y, Tensor<const int32_t> rows, Tensor<T> x);

}  // namespace fairway
