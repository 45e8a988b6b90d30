// Attention on the ordinary arithmetic units: any type, d <= 256, any GPU. Arguments as in
// attention_varlen_cuda.cuh.
#pragma once

#include "fairway/ops/attention_varlen_cuda.cuh"

namespace fairway::cuda::attention_simt {

int32_t tile_height(const AttentionShape& s);

template <class T>
void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
             const T* q, const T* k, const T* v, T* y, float* lse);

template <class T>
void backward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
              const AttentionTiles& key_tiles, const T* q, const T* k, const T* v, const float* lse,
              const T* dy, const float* delta, T* dq, T* dk, T* dv);

}  // namespace fairway::cuda::attention_simt
