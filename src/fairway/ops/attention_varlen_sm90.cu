// Launches of the Hopper attention kernels.
#include <cmath>

#include "fairway/device/cuda_error.h"
#include "fairway/ops/attention_backward_keys_persistent_sm90.cuh"
#include "fairway/ops/attention_backward_keys_sm90.cuh"
#include "fairway/ops/attention_backward_queries_sm90.cuh"
#include "fairway/ops/attention_forward_persistent_sm90.cuh"
#include "fairway/ops/attention_forward_sm90.cuh"
#include "fairway/ops/attention_varlen_sm90.cuh"
#include "fairway/sm90/tensor_map.h"

namespace fairway::cuda::attention_sm90 {

bool kForwardPersistent = false, kBackwardKeysPersistent = false;

namespace {

// Two query heads in one block need an even number of them per key/value head.
bool pairs_heads(const AttentionShape& s) {
  return s.H / s.K % 2 == 0;
}

// Three warpgroups of 168 registers fill a multiprocessor.
constexpr int kKeyWarpgroups = 3;

unsigned multiprocessors() {
  int device = 0, count = 0;
  require_success(cudaGetDevice(&device), "attention: current device");
  require_success(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
                  "attention: multiprocessors");
  return static_cast<unsigned>(count);
}

CUtensorMap map_of(const bf16* x, const AttentionShape& s, int heads) {
  const int64_t columns = static_cast<int64_t>(heads) * kTile;
  return tensor_map(x, s.T, columns, columns);
}

unsigned blocks(const AttentionTiles& tiles, int per_tile) {
  return static_cast<unsigned>(tiles.entries) * static_cast<unsigned>(per_tile);
}

float softmax_scale(const AttentionShape& s) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.d)));
}

template <class Kernel, class... Args>
void launch(cudaStream_t stream, Kernel* kernel, unsigned grid, int threads, size_t shared_bytes,
            Args... args) {
  require_success(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(shared_bytes)),
                  "attention: shared memory");
  kernel<<<grid, static_cast<unsigned>(threads), shared_bytes, stream>>>(args...);
  require_success(cudaGetLastError(), "attention: launch");
}

__nv_bfloat16* storage(bf16* p) {
  return reinterpret_cast<__nv_bfloat16*>(p);
}

}  // namespace

size_t row_terms_bytes(const AttentionShape& s) {
  return sizeof(RowTerms) * static_cast<size_t>(AttentionTile::slots(s.T, s.segments, kTile)) *
         static_cast<size_t>(s.H);
}

int32_t forward_tile_rows(const AttentionShape& s) {
  return forward_tile_height(pairs_heads(s));
}
int32_t backward_query_tile_rows(const AttentionShape& s) {
  return backward_queries_tile_height(pairs_heads(s));
}
int32_t backward_key_tile_rows(const AttentionShape&) {
  return kKeyWarpgroups * kTile;
}

void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& tiles,
             const bf16* q, const bf16* k, const bf16* v, bf16* y, float* lse) {
  const bool pair = pairs_heads(s);
  if (kForwardPersistent && pair)
    launch(stream, forward_persistent_kernel, multiprocessors(), kPersistentForwardThreads,
           PersistentForwardShared::kBytes(), map_of(q, s, s.H), map_of(k, s, s.K),
           map_of(v, s, s.K), tiles, s.T, s.H, s.K, softmax_scale(s), storage(y), lse);
  else
    launch(stream, pair ? forward_kernel<true> : forward_kernel<false>,
           blocks(tiles, pair ? s.H / 2 : s.H), 2 * kWarpgroupThreads, ForwardShared::kBytes(),
           map_of(q, s, s.H), map_of(k, s, s.K), map_of(v, s, s.K), tiles, s.T, s.H, s.K,
           softmax_scale(s), storage(y), lse);
}

void backward_keys(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& tiles,
                   const bf16* q, const bf16* k, const bf16* v, const bf16* dy,
                   const void* row_terms, bf16* dk, bf16* dv) {
  if (kBackwardKeysPersistent)
    launch(stream, backward_keys_persistent_kernel, multiprocessors(), kPersistentKeysThreads,
           PersistentKeysShared::kBytes(), map_of(q, s, s.H), map_of(dy, s, s.H), map_of(k, s, s.K),
           map_of(v, s, s.K), tiles, s.H, s.K, softmax_scale(s),
           static_cast<const RowTerms*>(row_terms), storage(dk), storage(dv));
  else
    launch(stream, backward_keys_kernel<kKeyWarpgroups>, blocks(tiles, s.K),
           kKeyWarpgroups * kWarpgroupThreads, BackwardKeysShared<kKeyWarpgroups>::kBytes(),
           map_of(q, s, s.H), map_of(dy, s, s.H), map_of(k, s, s.K), map_of(v, s, s.K), tiles, s.H,
           s.K, softmax_scale(s), static_cast<const RowTerms*>(row_terms), storage(dk),
           storage(dv));
}

void backward_queries(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& tiles,
                      const bf16* q, const bf16* k, const bf16* v, const float* lse, const bf16* dy,
                      const float* delta, bf16* dq, void* row_terms) {
  const bool pair = pairs_heads(s);
  launch(stream, pair ? backward_queries_kernel<true> : backward_queries_kernel<false>,
         blocks(tiles, pair ? s.H / 2 : s.H), 2 * kWarpgroupThreads,
         BackwardQueriesShared::kBytes(), map_of(q, s, s.H), map_of(dy, s, s.H), map_of(k, s, s.K),
         map_of(v, s, s.K), tiles, s.T, s.H, s.K, softmax_scale(s), lse, delta, storage(dq),
         static_cast<RowTerms*>(row_terms));
}

}  // namespace fairway::cuda::attention_sm90
