// RMS norm without weight: n = scale · x · rstd, rstd = 1/sqrt(mean(x²) + eps) per row.
#pragma once

#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// x [T, D] → rstd [T], n [T, D].
template <class T>
void rms_norm(CpuDevice& device, Tensor<const T> x, double eps, double scale, Tensor<T> rstd,
              Tensor<T> n);

// n again from a saved rstd.
template <class T>
void rms_norm_apply(CpuDevice& device, Tensor<const T> x, Tensor<const T> rstd, double scale,
                    Tensor<T> n);

// dx += scale·rstd·(dn − x·rstd²·mean(dn⊙x)).
template <class T>
void rms_norm_backward(CpuDevice& device, Tensor<const T> dn, Tensor<const T> x,
                       Tensor<const T> rstd, double scale, Tensor<T> dx);

}  // namespace fairway
