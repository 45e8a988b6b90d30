// Causal softmax attention inside the segments of a packed buffer.
//
//   y_i = Σ_{j ≤ i} softmax_j(q_i·k_j / sqrt(d)) v_j,   i, j in one segment,
// query head h reading key/value head ⌊h·K/H⌋. Memory is linear in the length of a segment.
// Legend: T rows, H query heads, K key/value heads, d head width.
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// q [T, H, d], k and v [T, K, d], cu_seqlens [S+1] → y [T, H, d], lse [H, T] (log Σ e^score).
template <class T>
void attention_varlen(CpuDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                      Tensor<const int32_t> cu_seqlens, Tensor<T> y, Tensor<T> lse);
template <class T>
void attention_varlen(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                      Tensor<const int32_t> cu_seqlens, Tensor<T> y, Tensor<Accum<T>> lse);

// dy [T, H, d], delta [H, T] = dy·y  →  dq, dk written, dv accumulated.
template <class T>
void attention_varlen_backward(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                               Tensor<const T> v, Tensor<const int32_t> cu_seqlens,
                               Tensor<const T> lse, Tensor<const T> dy, Tensor<const T> delta,
                               Tensor<T> dq, Tensor<T> dk, Tensor<T> dv);
template <class T>
void attention_varlen_backward(CudaDevice& device, Tensor<const T> q, Tensor<const T> k,
                               Tensor<const T> v, Tensor<const int32_t> cu_seqlens,
                               Tensor<const Accum<T>> lse, Tensor<const T> dy,
                               Tensor<const Accum<T>> delta, Tensor<T> dq, Tensor<T> dk,
                               Tensor<T> dv);

// The slow twins: the definition, loop by loop.
template <class T>
void attention_varlen_plain(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                            Tensor<const T> v, Tensor<const int32_t> cu_seqlens, Tensor<T> y,
                            Tensor<T> lse);
template <class T>
void attention_varlen_backward_plain(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                                     Tensor<const T> v, Tensor<const int32_t> cu_seqlens,
                                     Tensor<const T> lse, Tensor<const T> dy, Tensor<const T> delta,
                                     Tensor<T> dq, Tensor<T> dk, Tensor<T> dv);

}  // namespace fairway
