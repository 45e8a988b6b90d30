// Attention with exclusive attention (xsa.h) behind it, as one op: a device may do it in one pass.
// Legend as in attention_varlen.h. The way back: linear_xsa.h, then attention_varlen_backward.
#pragma once

#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/xsa.h"

namespace fairway {

// y2 [T, H, d] = xsa(attention), lse [H, T], y_dot_v [T, H].
template <class T>
void attention_xsa(CpuDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<T> lse,
                   Tensor<T> y_dot_v) {
  attention_varlen<T>(device, q, k, v, segments, y2, lse);
  xsa<T>(device, y2, v, y_dot_v);
}
template <class T>
void attention_xsa(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<Accum<T>> lse,
                   Tensor<Accum<T>> y_dot_v);

}  // namespace fairway
