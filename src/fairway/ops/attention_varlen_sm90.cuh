// Attention for bf16 and d = 64 on compute capability 9.0: wgmma products, TMA loads. The tile
// lists have the heights given here; other arguments as in attention_varlen_cuda.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include "fairway/base/bf16.h"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_varlen_cuda.cuh"

namespace fairway::cuda::attention_sm90 {

inline bool supports(const AttentionShape& s) {
  return s.d == 64;
}

int32_t forward_tile_rows(const AttentionShape& s);
int32_t backward_query_tile_rows(const AttentionShape& s);
int32_t backward_key_tile_rows(const AttentionShape& s);

void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& tiles,
             const bf16* q, const bf16* k, const bf16* v, bf16* y, float* lse);

// dk written, dv accumulated; the tiles are of keys.
void backward_keys(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& tiles,
                   const bf16* q, const bf16* k, const bf16* v, const float* lse, const bf16* dy,
                   const float* delta, bf16* dk, bf16* dv);

// dq written; the tiles are of queries.
void backward_queries(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& tiles,
                      const bf16* q, const bf16* k, const bf16* v, const float* lse, const bf16* dy,
                      const float* delta, bf16* dq);

}  // namespace fairway::cuda::attention_sm90
