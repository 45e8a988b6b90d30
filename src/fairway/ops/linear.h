// Linear maps y = x Wᵀ with W stored [out, in]. A row of y depends on its row of x alone, bit for
// bit: batching rows together never changes them.
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// x [T, in], w [out, in] → y [T, out]; y += with `accumulate`.
template <class T>
void linear(CpuDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<T> y, bool accumulate);
template <class T>
void linear(CudaDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<T> y, bool accumulate);

// dx = dy W, or dx += dy W.
template <class T>
void linear_backward_input(CpuDevice& device, Tensor<const T> dy, Tensor<const T> w, Tensor<T> dx,
                           bool accumulate);
template <class T>
void linear_backward_input(CudaDevice& device, Tensor<const T> dy, Tensor<const T> w, Tensor<T> dx,
                           bool accumulate);

// dw += dyᵀ x.
template <class T>
void linear_backward_weight(CpuDevice& device, Tensor<const T> dy, Tensor<const T> x, Tensor<T> dw);
template <class T>
void linear_backward_weight(CudaDevice& device, Tensor<const T> dy, Tensor<const T> x,
                            Tensor<Accum<T>> dw);

}  // namespace fairway
