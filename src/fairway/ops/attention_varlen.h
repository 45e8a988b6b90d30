// Causal softmax attention inside the segments of a packed buffer.
//
//   y_i = Σ_{j ≤ i} softmax_j(q_i·k_j / sqrt(d)) v_j,   i, j in one segment,
// query head h reading key/value head ⌊h·K/H⌋. Memory is linear in the length of a segment.
// Legend: T rows, Q of them queries, H query heads, K key/value heads, d head width.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"
#include "fairway/ops/rope_gain.h"

namespace fairway {

// The segments of a packed buffer: cu_seqlens [S+1], and optionally the tile lists that a device
// made of it once for all ops on this packing. Without them each op makes its own.
//
// Every row is a query (Q = T); or with cu_queries only the last rows of each segment s are, as
// many as cu_queries[s+1] − cu_queries[s], which may be none. Tensors of queries hold these rows
// alone, one segment's behind the other's. A query's result is the same bits in both cases.
struct AttentionSegments {
  AttentionSegments(Tensor<const int32_t> starts, std::byte* lists = nullptr)
      : cu_seqlens(starts), tiles(lists) {}
  AttentionSegments(Tensor<const int32_t> starts, Tensor<const int32_t> query_starts,
                    Tensor<const int32_t> rows)
      : cu_seqlens(starts), cu_queries(query_starts), query_rows(rows) {}
  Tensor<const int32_t> cu_seqlens;
  Tensor<const int32_t> cu_queries;  // [S+1]; null: every row is a query
  Tensor<const int32_t> query_rows;  // [Q] the row of each query; null: every row
  std::byte* tiles = nullptr;
};

// One segment on the host, where cu_seqlens lies in its memory.
struct AttentionSegment {
  int64_t begin, length;
  int64_t first_query;  // of the segment's rows, counted from 0; length: it has none
  int64_t query_begin;  // the segment's row i is row query_begin + i of queries' tensors

  AttentionSegment(const AttentionSegments& all, int64_t s)
      : begin(all.cu_seqlens[s]),
        length(all.cu_seqlens[s + 1] - begin),
        first_query(0),
        query_begin(begin) {
    if (!all.cu_queries) return;
    first_query = length - (all.cu_queries[s + 1] - all.cu_queries[s]);
    query_begin = all.cu_queries[s] - first_query;
  }
};

// Heads and rows of the ops that share a plan.
struct AttentionExtents {
  int64_t T, H, K, d;
};
// Makes the tile lists for ops on elements T, in memory of the device that its next plan uses
// again.
template <class T>
AttentionSegments attention_plan(CpuDevice&, const AttentionExtents&,
                                 Tensor<const int32_t> cu_seqlens) {
  return cu_seqlens;
}
template <class T>
AttentionSegments attention_plan(CudaDevice& device, const AttentionExtents& extents,
                                 Tensor<const int32_t> cu_seqlens);

// q [Q, H, d], k and v [T, K, d], S segments → y [Q, H, d], lse [H, Q] (log Σ e^score).
// With q_gain [H], where q and k were normed (rope_gain.h): but for rounding no row of k is longer
// than √d, none of q in head h than |q_gain[h]| √d. Scores are bounded then, and a device may do
// without their maximum.
template <class T>
void attention_varlen(CpuDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                      const AttentionSegments& segments, Tensor<T> y, Tensor<T> lse,
                      Tensor<const T> q_gain = {});
template <class T>
void attention_varlen(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                      const AttentionSegments& segments, Tensor<T> y, Tensor<Accum<T>> lse,
                      Tensor<const Accum<T>> q_gain = {});

// dy [Q, H, d], delta [H, Q] = dy·y  →  dq, dk written, dv accumulated. With a rope, q and k are
// rope_gain's outputs, and dq and dk the gradients of its inputs.
template <class T>
void attention_varlen_backward(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                               Tensor<const T> v, const AttentionSegments& segments,
                               Tensor<const T> lse, Tensor<const T> dy, Tensor<const T> delta,
                               Tensor<T> dq, Tensor<T> dk, Tensor<T> dv,
                               const RopeBackward<T>* rope = nullptr);
template <class T>
void attention_varlen_backward(CudaDevice& device, Tensor<const T> q, Tensor<const T> k,
                               Tensor<const T> v, const AttentionSegments& segments,
                               Tensor<const Accum<T>> lse, Tensor<const T> dy,
                               Tensor<const Accum<T>> delta, Tensor<T> dq, Tensor<T> dk,
                               Tensor<T> dv, const RopeBackward<T>* rope = nullptr);

// The slow twins: the definition, loop by loop.
template <class T>
void attention_varlen_plain(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                            Tensor<const T> v, const AttentionSegments& segments, Tensor<T> y,
                            Tensor<T> lse);
template <class T>
void attention_varlen_backward_plain(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                                     Tensor<const T> v, const AttentionSegments& segments,
                                     Tensor<const T> lse, Tensor<const T> dy, Tensor<const T> delta,
                                     Tensor<T> dq, Tensor<T> dk, Tensor<T> dv);

}  // namespace fairway
