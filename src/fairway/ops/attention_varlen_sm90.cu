// Launches of the Hopper attention kernels.
#include "fairway/device/cuda_check.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/attention_backward_keys_sm90.cuh"
#include "fairway/ops/attention_backward_queries_sm90.cuh"
#include "fairway/ops/attention_forward_sm90.cuh"
#include "fairway/ops/attention_launch.cuh"
#include "fairway/ops/attention_varlen_sm90.cuh"
#include "fairway/sm90/tensor_map.h"

namespace fairway::cuda::attention_sm90 {

namespace {

// Two query heads in one block need an even number of them per key/value head.
bool pairs_heads(const AttentionShape& s) {
  return s.H / s.K % 2 == 0;
}

unsigned multiprocessors() {
  int device = 0, count = 0;
  cuda_check(cudaGetDevice(&device), "attention: current device");
  cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "attention: multiprocessors");
  return static_cast<unsigned>(count);
}

CUtensorMap map_of(const bf16* x, int64_t rows, int heads) {
  const int64_t columns = static_cast<int64_t>(heads) * kTile;
  return sm90::tensor_map(x, rows, columns, columns);
}

template <class Kernel, class... Args>
void launch(cudaStream_t stream, Kernel* kernel, unsigned grid, int threads, size_t shared_bytes,
            Args... args) {
  allow_shared(kernel, shared_bytes);
  launch_dependent(stream, kernel, grid, static_cast<unsigned>(threads), shared_bytes, args...);
  cuda_check_launch("attention");
}

}  // namespace

int32_t query_tile_height(const AttentionShape& s) {
  return query_tile_rows(pairs_heads(s));
}
int32_t key_tile_height(const AttentionShape&) {
  return kTile;
}

size_t row_terms_bytes(const AttentionShape& s) {
  return sizeof(RowTerms) * static_cast<size_t>(AttentionTile::slots(s.T, s.segments, kTile)) *
         static_cast<size_t>(s.H);
}

int64_t gain_partials(const AttentionShape& s) {
  return AttentionTile::slots(s.T, s.segments, kTile);
}

void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
             const bf16* q, const bf16* k, const bf16* v, const float* q_gain, bf16* y, float* lse,
             float* y_dot_v) {
  const bool pair = pairs_heads(s);
  launch(stream, pair ? forward_kernel<true> : forward_kernel<false>, multiprocessors(),
         kForwardThreads, pair ? ForwardShared<true>::kBytes() : ForwardShared<false>::kBytes(),
         map_of(q, s.Q, s.H), map_of(k, s.T, s.K), map_of(v, s.T, s.K), query_tiles, s.Q, s.H, s.K,
         softmax_scale(s.d), q_gain, storage(y), lse, y_dot_v);
}

void backward_queries(cudaStream_t stream, const AttentionShape& s,
                      const AttentionTiles& query_tiles, const bf16* q, const bf16* k,
                      const bf16* v, const float* lse, const bf16* dy, const float* delta, bf16* dq,
                      void* row_terms, const AttentionRope& rope) {
  const bool pair = pairs_heads(s);
  if (rope.gain_partials)  // of numbers that no tile has, too
    cuda_check(cudaMemsetAsync(rope.gain_partials, 0,
                               sizeof(float) * static_cast<size_t>(gain_partials(s) * s.H), stream),
               "attention: zeroing partial sums");
  launch(stream, pair ? backward_queries_kernel<true> : backward_queries_kernel<false>,
         tile_blocks(query_tiles, pair ? s.H / 2 : s.H), 2 * kWarpgroupThreads,
         BackwardQueriesShared::kBytes(), map_of(q, s.Q, s.H), map_of(dy, s.Q, s.H),
         map_of(k, s.T, s.K), map_of(v, s.T, s.K), query_tiles, s.Q, s.H, s.K, softmax_scale(s.d),
         lse, delta, storage(dq), static_cast<RowTerms*>(row_terms), rope);
}

void backward_keys(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& key_tiles,
                   const bf16* q, const bf16* k, const bf16* v, const bf16* dy,
                   const void* row_terms, bf16* dk, bf16* dv, const AttentionRope& rope) {
  launch(stream, backward_keys_kernel, tile_blocks(key_tiles, s.K), kWarpgroupThreads,
         BackwardKeysShared::kBytes(), map_of(q, s.Q, s.H), map_of(dy, s.Q, s.H),
         map_of(k, s.T, s.K), map_of(v, s.T, s.K), key_tiles, s.H, s.K, softmax_scale(s.d),
         static_cast<const RowTerms*>(row_terms), storage(dk), storage(dv), rope);
}

}  // namespace fairway::cuda::attention_sm90
