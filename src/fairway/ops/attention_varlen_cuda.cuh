// Causal softmax attention inside the segments of a packed buffer, on a CUDA device.
// Legend: T rows, Q of them queries, H query heads, K key/value heads, d head width.
//
// For T = float and bf16; products accumulate in float. No floating-point atomics: equal inputs
// give equal bits, and a segment's result does not depend on the rest of the buffer. Work is issued
// to the stream; nothing is allocated and nothing synchronizes, so calls can be captured in a
// graph and replayed with other contents of cu_seqlens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda {

struct AttentionShape {
  int64_t T, Q;
  int H, K, d;
  int segments;  // entries of cu_seqlens - 1; empty segments are allowed
};

enum class AttentionKernels {
  simt,  // any type, d <= 256, any GPU
  mma,   // bf16, d = 32, 64 or 128: tensor cores, any GPU since compute capability 8.0
  sm90   // bf16, d = 64: Hopper
};
// The fastest for this element type and compute capability (90 for 9.0).
template <class T>
AttentionKernels attention_kernels(const AttentionShape& shape, int capability);

// A packing's tile lists for these kernels. The struct is the host's view: making it issues no
// work, fill_attention_plan does. A filled plan serves any number of calls, one at a time.
struct AttentionPlan {
  AttentionShape shape;
  AttentionKernels kernels;
  AttentionTiles query_tiles, key_tiles;
};
size_t attention_plan_bytes(const AttentionShape& shape);  // enough for any kernels
// `memory` in device memory, 16-byte aligned, attention_plan_bytes.
AttentionPlan attention_plan(const AttentionShape& shape, AttentionKernels kernels, void* memory);
// Which rows are queries: AttentionSegments (attention_varlen.h). cu_queries may be null.
void fill_attention_plan(cudaStream_t stream, const AttentionPlan& plan, const int32_t* cu_seqlens,
                         const int32_t* cu_queries);

// q [Q, H, d], k and v [T, K, d] → y [Q, H, d], lse [H, Q] (log Σ e^score). All in device memory,
// aligned to 16 bytes. q_gain [H] as in attention_varlen.h, or null. With y_dot_v [Q, H], where
// forward_fuses_xsa, y is exclusive attention's (xsa.h).
bool forward_fuses_xsa(const AttentionPlan& plan);
template <class T>
void attention_forward(cudaStream_t stream, const AttentionPlan& plan, const T* q, const T* k,
                       const T* v, const float* q_gain, T* y, float* lse, float* y_dot_v = nullptr);

// Scratch of one backward call, aligned to 16 bytes.
size_t attention_workspace_bytes(const AttentionPlan& plan);

// RopeBackward (rope_gain.h) on the device; none without a cosine. Rows of `half` floats are
// aligned to 8 bytes. The sum over gain_partials [attention_gain_partials, H], all written, is
// dq_gain; null: not wanted.
struct AttentionRope {
  const float *rstd_q = nullptr, *rstd_k = nullptr, *q_gain = nullptr;
  const float *cosine = nullptr, *sine = nullptr, *q_cosine = nullptr, *q_sine = nullptr;
  int half = 0;
  float* gain_partials = nullptr;
};
bool backward_fuses_rope(const AttentionPlan& plan, int64_t half);
int64_t attention_gain_partials(const AttentionPlan& plan);

// dy [Q, H, d], delta [H, Q] = dy·y  →  dq [Q, H, d], dk [T, K, d] written, dv [T, K, d]
// accumulated (read, added to in float, rounded once). With a rope, where backward_fuses_rope, dq
// and dk are the gradients of what was normed.
template <class T>
void attention_backward(cudaStream_t stream, const AttentionPlan& plan, const T* q, const T* k,
                        const T* v, const float* lse, const T* dy, const float* delta, T* dq, T* dk,
                        T* dv, void* workspace, const AttentionRope& rope = {});

}  // namespace fairway::cuda
