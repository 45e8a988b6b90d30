// Attention with exclusive attention (xsa.h) behind it, as one op; forward, a device may do it in
// one pass. Legend as in attention_varlen.h.
#pragma once

#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/xsa.h"

namespace fairway {

// y2 [Q, H, d] = xsa(attention), lse [H, Q], y_dot_v [Q, H]. Segments with cu_queries have
// query_rows too.
template <class T>
void attention_xsa(CpuDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<T> lse,
                   Tensor<T> y_dot_v) {
  attention_varlen<T>(device, q, k, v, segments, y2, lse);
  xsa<T>(device, y2, v, y_dot_v, segments.query_rows);
}
template <class T>
void attention_xsa(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<Accum<T>> lse,
                   Tensor<Accum<T>> y_dot_v);

// dy: the gradient of y2, which becomes that of attention's own output. delta [H, Q]: scratch.
// dq, dk, dv written; rope as in attention_varlen_backward.
template <class T, class Device>
void attention_xsa_backward(Device& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                            const AttentionSegments& segments, Tensor<const Accum<T>> lse,
                            Tensor<const T> y2, Tensor<const Accum<T>> y_dot_v, Tensor<T> dy,
                            Tensor<Accum<T>> delta, Tensor<T> dq, Tensor<T> dk, Tensor<T> dv,
                            const RopeBackward<T>* rope = nullptr) {
  // Where rows are no queries, dv begins with nothing.
  if (segments.query_rows) device.zero(dv.data, static_cast<size_t>(dv.size()) * sizeof(T));
  xsa_backward<T>(device, y2, v, y_dot_v, dy, dv, delta, segments.query_rows);
  attention_varlen_backward<T>(device, q, k, v, segments, lse, dy, delta, dq, dk, dv, rope);
}

}  // namespace fairway
