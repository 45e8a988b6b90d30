// Exclusive attention (XSA): takes out of each head's output y its part along the value of the same
// position and group.  v̂ = v / max(‖v‖, 1e-12);  y2 = y − (y·v̂) v̂.
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// y [Q, H, d] in place; v [T, K, d]; y_dot_v [Q, H] receives y·v̂. rows [Q]: the row of v that is at
// the position of each row of y; null: the same row.
template <class T>
void xsa(CpuDevice& device, Tensor<T> y, Tensor<const T> v, Tensor<T> y_dot_v,
         Tensor<const int32_t> rows = {});
template <class T>
void xsa(CudaDevice& device, Tensor<T> y, Tensor<const T> v, Tensor<Accum<T>> y_dot_v,
         Tensor<const int32_t> rows = {});

// From y2 and the saved y·v̂, without y:
//   dy = dy2 − (dy2·v̂) v̂ (in place),   dv = −Σ_heads [(dy2·v̂) y2 + (y·v̂) dy] / ‖v‖   (written),
//   delta[h, t] = dy·y = dy2·y2, which attention's backward needs.
// With `rows`, those rows of dv are written and no others.
template <class T>
void xsa_backward(CpuDevice& device, Tensor<const T> y2, Tensor<const T> v, Tensor<const T> y_dot_v,
                  Tensor<T> dy, Tensor<T> dv, Tensor<T> delta, Tensor<const int32_t> rows = {});
template <class T>
void xsa_backward(CudaDevice& device, Tensor<const T> y2, Tensor<const T> v,
                  Tensor<const Accum<T>> y_dot_v, Tensor<T> dy, Tensor<T> dv,
                  Tensor<Accum<T>> delta, Tensor<const int32_t> rows = {});

// delta[h, t] = dy·y alone, for layers without XSA.
template <class T>
void attention_delta(CpuDevice& device, Tensor<const T> y, Tensor<const T> dy, Tensor<T> delta);
template <class T>
void attention_delta(CudaDevice& device, Tensor<const T> y, Tensor<const T> dy,
                     Tensor<Accum<T>> delta);

}  // namespace fairway
