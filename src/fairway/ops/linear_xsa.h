// The way back through an output projection and exclusive attention (xsa.h) before it, as one op: a
// device may do it in one pass. Legend as in xsa.h.
#pragma once

#include "fairway/ops/linear.h"
#include "fairway/ops/xsa.h"

namespace fairway {

// Of out = y2 Wᵀ, w [D, H·d]. From dout [T, D], and y2 [T, H, d], v [T, K, d], y_dot_v [T, H] as
// xsa left them:
//   dy [T, H, d]   the gradient of attention's own output, written; not dout's memory
//   dv [T, K, d]   what v gets through XSA, written
//   delta [H, T]   dy·y, which attention's backward needs, written
// With `rows` [Q], dout, y2, y_dot_v, dy and delta have the rows of some positions alone, v and dv
// those of all: row q of y2 is at rows[q] of v, and where there is none dv is zero.
// `w_transposed` [H·d, D]: a copy of w (ops/transposed_weights.h); null: the op makes what it
// needs.
template <class T>
void linear_xsa_backward(CudaDevice& device, Tensor<const T> dout, Tensor<const T> w,
                         Tensor<const T> y2, Tensor<const T> v, Tensor<const Accum<T>> y_dot_v,
                         Tensor<T> dy, Tensor<T> dv, Tensor<Accum<T>> delta,
                         Tensor<const int32_t> rows = {}, Tensor<const T> w_transposed = {});

// Step by step; dy holds the gradient of y2 first, and is rounded with it.
template <class T, class Device>
void linear_xsa_backward_steps(Device& device, Tensor<const T> dout, Tensor<const T> w,
                               Tensor<const T> y2, Tensor<const T> v,
                               Tensor<const Accum<T>> y_dot_v, Tensor<T> dy, Tensor<T> dv,
                               Tensor<Accum<T>> delta, Tensor<const int32_t> rows = {}) {
  linear_backward_input<T>(device, dout, w, dy, false);
  if (rows) device.zero(dv.data, static_cast<size_t>(dv.size()) * sizeof(T));
  xsa_backward<T>(device, y2, v, y_dot_v, dy, dv, delta, rows);
}

template <class T>
void linear_xsa_backward(CpuDevice& device, Tensor<const T> dout, Tensor<const T> w,
                         Tensor<const T> y2, Tensor<const T> v, Tensor<const T> y_dot_v,
                         Tensor<T> dy, Tensor<T> dv, Tensor<T> delta,
                         Tensor<const int32_t> rows = {}, Tensor<const T> = {}) {
  linear_xsa_backward_steps<T>(device, dout, w, y2, v, y_dot_v, dy, dv, delta, rows);
}

}  // namespace fairway
