// Attention for bf16 and d = 64 on compute capability 9.0: wgmma products, TMA loads. Arguments as
// in attention_varlen_cuda.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include "fairway/base/bf16.h"
#include "fairway/ops/attention_varlen_cuda.cuh"

namespace fairway::cuda::attention_sm90 {

int32_t query_tile_height(const AttentionShape& s);
int32_t key_tile_height(const AttentionShape& s);

// Takes all tiles of the list, and leaves it ready for another call. q_gain and y_dot_v may be
// null.
void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
             const bf16* q, const bf16* k, const bf16* v, const float* q_gain, bf16* y, float* lse,
             float* y_dot_v);

// Rows of AttentionRope::gain_partials.
int64_t gain_partials(const AttentionShape& s);

// dq written. `row_terms`: row_terms_bytes of device memory, aligned to 16 bytes, which receives
// lse and delta in the layout of backward_keys.
size_t row_terms_bytes(const AttentionShape& s);
void backward_queries(cudaStream_t stream, const AttentionShape& s,
                      const AttentionTiles& query_tiles, const bf16* q, const bf16* k,
                      const bf16* v, const float* lse, const bf16* dy, const float* delta, bf16* dq,
                      void* row_terms, const AttentionRope& rope);

// dk written, dv accumulated; row_terms from backward_queries.
void backward_keys(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& key_tiles,
                   const bf16* q, const bf16* k, const bf16* v, const bf16* dy,
                   const void* row_terms, bf16* dk, bf16* dv, const AttentionRope& rope);

}  // namespace fairway::cuda::attention_sm90
