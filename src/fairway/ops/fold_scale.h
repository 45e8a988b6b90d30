// A scale per output of a linear map, folded into its matrix: scale⊙(x Wᵀ) = x (diag(scale) W)ᵀ.
// Outputs before the scale then never exist, forward or backward.
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// scaled[i, j] = scale[i]·w[i, j];  w, scaled [.., cols], scale with one element a row.
template <class T>
void fold_scale(CpuDevice& device, Tensor<const T> w, Tensor<const T> scale, Tensor<T> scaled);
template <class T>
void fold_scale(CudaDevice& device, Tensor<const T> w, Tensor<const Accum<T>> scale,
                Tensor<T> scaled);

// From the gradient of the scaled matrix:  dw[i, j] += scale[i]·dscaled[i, j],
// dscale[i] += Σ_j dscaled[i, j]·w[i, j].
template <class T>
void fold_scale_backward(CpuDevice& device, Tensor<const T> dscaled, Tensor<const T> w,
                         Tensor<const T> scale, Tensor<T> dw, Tensor<T> dscale);
template <class T>
void fold_scale_backward(CudaDevice& device, Tensor<const Accum<T>> dscaled, Tensor<const T> w,
                         Tensor<const Accum<T>> scale, Tensor<Accum<T>> dw,
                         Tensor<Accum<T>> dscale);

}  // namespace fairway
