// Attention on the tensor cores of any GPU since compute capability 8.0, for bf16 and d = 32, 64 or
// 128. Arguments as in attention_varlen_cuda.cuh.
#pragma once

#include "fairway/base/bf16.h"
#include "fairway/ops/attention_varlen_cuda.cuh"

namespace fairway::cuda::attention_mma {

inline bool supports(const AttentionShape& s) {
  return s.d == 32 || s.d == 64 || s.d == 128;
}
int32_t tile_height(const AttentionShape& s);

void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
             const bf16* q, const bf16* k, const bf16* v, bf16* y, float* lse);

void backward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
              const AttentionTiles& key_tiles, const bf16* q, const bf16* k, const bf16* v,
              const float* lse, const bf16* dy, const float* delta, bf16* dq, bf16* dk, bf16* dv);

}  // namespace fairway::cuda::attention_mma
