// Causal softmax attention inside the segments of a packed buffer, on a CUDA device.
// Legend: T rows, H query heads, K key/value heads, d head width.
//
// For T = float and bf16; products accumulate in float. No floating-point atomics: equal inputs
// give equal bits, and a segment's result does not depend on the rest of the buffer. Work is issued
// to the stream; nothing is allocated and nothing synchronizes, so calls can be captured in a
// graph and replayed with other contents of cu_seqlens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace fairway::cuda {

struct AttentionShape {
  int64_t T;
  int H, K, d;
  int segments;  // entries of cu_seqlens - 1; empty segments are allowed
};

// Scratch for one call of either direction, aligned to 16 bytes. It may be shared by calls on one
// stream.
size_t attention_workspace_bytes(const AttentionShape& shape);

// q [T, H, d], k and v [T, K, d], cu_seqlens [segments + 1] → y [T, H, d], lse [H, T] (log Σ
// e^score). All in device memory; rows of 16-byte aligned buffers. d <= 256.
template <class T>
void attention_forward(cudaStream_t stream, const AttentionShape& shape, const T* q, const T* k,
                       const T* v, const int32_t* cu_seqlens, T* y, float* lse, void* workspace,
                       size_t workspace_bytes);

// dy [T, H, d], delta [H, T] = dy·y  →  dq [T, H, d], dk [T, K, d] written, dv [T, K, d]
// accumulated (read, added to in float, rounded once).
template <class T>
void attention_backward(cudaStream_t stream, const AttentionShape& shape, const T* q, const T* k,
                        const T* v, const int32_t* cu_seqlens, const float* lse, const T* dy,
                        const float* delta, T* dq, T* dk, T* dv, void* workspace,
                        size_t workspace_bytes);

// The kernels that run on every device, whatever the dispatch above would choose.
template <class T>
void attention_forward_simt(cudaStream_t stream, const AttentionShape& shape, const T* q,
                            const T* k, const T* v, const int32_t* cu_seqlens, T* y, float* lse,
                            void* workspace, size_t workspace_bytes);
template <class T>
void attention_backward_simt(cudaStream_t stream, const AttentionShape& shape, const T* q,
                             const T* k, const T* v, const int32_t* cu_seqlens, const float* lse,
                             const T* dy, const float* delta, T* dq, T* dk, T* dv, void* workspace,
                             size_t workspace_bytes);

}  // namespace fairway::cuda
