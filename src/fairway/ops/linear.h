// Linear maps y = x Wᵀ with W stored [out, in]. A row of y depends on its row of x alone, bit for
// bit: batching rows together never changes them.
#pragma once

#include <array>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// x [T, in], w [out, in] → y [T, out]; y += with `accumulate`.
template <class T>
void linear(CpuDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<T> y, bool accumulate);
template <class T>
void linear(CudaDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<T> y, bool accumulate);

// y = residual + x Wᵀ; y may be the residual.
template <class T>
void linear_add(CpuDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<const T> residual,
                Tensor<T> y);
template <class T>
void linear_add(CudaDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<const T> residual,
                Tensor<T> y);

// dx = dy W, or dx += dy W.
template <class T>
void linear_backward_input(CpuDevice& device, Tensor<const T> dy, Tensor<const T> w, Tensor<T> dx,
                           bool accumulate);
template <class T>
void linear_backward_input(CudaDevice& device, Tensor<const T> dy, Tensor<const T> w, Tensor<T> dx,
                           bool accumulate);

// dx = Σ_i dy[i] w[i]: three maps of one input.
template <class T>
struct LinearThree {
  std::array<Tensor<const T>, 3> dy;  // [T, out_i]
  std::array<Tensor<const T>, 3> w;   // [out_i, in]
  // [in, Σ out_i] copies of w (ops/transposed_weights.h); null: the op makes what it needs.
  Tensor<const T> w_transposed = {};
};
template <class T>
void linear_three_backward_input(CpuDevice& device, const LinearThree<T>& maps, Tensor<T> dx);
template <class T>
void linear_three_backward_input(CudaDevice& device, const LinearThree<T>& maps, Tensor<T> dx);

// dw += dyᵀ x.
template <class T>
void linear_backward_weight(CpuDevice& device, Tensor<const T> dy, Tensor<const T> x, Tensor<T> dw);
template <class T>
void linear_backward_weight(CudaDevice& device, Tensor<const T> dy, Tensor<const T> x,
                            Tensor<Accum<T>> dw);

// dw[i] += dy[i]ᵀ x: three maps of one input. dy[i] [T, out_i], x [T, in], dw[i] [out_i, in].
template <class T>
void linear_three_backward_weight(CpuDevice& device, const std::array<Tensor<const T>, 3>& dy,
                                  Tensor<const T> x, const std::array<Tensor<T>, 3>& dw);
template <class T>
void linear_three_backward_weight(CudaDevice& device, const std::array<Tensor<const T>, 3>& dy,
                                  Tensor<const T> x, const std::array<Tensor<Accum<T>>, 3>& dw);

}  // namespace fairway
