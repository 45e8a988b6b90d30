// Attention with exclusive attention (xsa.h) behind it, as one op: a device may do it in one pass.
// Legend as in attention_varlen.h. The way back: linear_xsa.h, then attention_varlen_backward.
#pragma once

#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/xsa.h"

namespace fairway {

// y2 [Q, H, d] = xsa(attention), lse [H, Q], y_dot_v [Q, H]. Segments with cu_queries have
// query_rows too.
template <class T>
void attention_xsa(CpuDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<T> lse,
                   Tensor<T> y_dot_v, Tensor<const T> q_gain = {}) {
  attention_varlen<T>(device, q, k, v, segments, y2, lse, q_gain);
  xsa<T>(device, y2, v, y_dot_v, segments.query_rows);
}
template <class T>
void attention_xsa(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<Accum<T>> lse,
                   Tensor<Accum<T>> y_dot_v, Tensor<const Accum<T>> q_gain = {});

}  // namespace fairway
