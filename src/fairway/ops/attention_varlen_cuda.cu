// Attention on CUDA: the choice of kernels and their tile lists.
#include <algorithm>
#include <type_traits>

#include "fairway/device/cuda_check.h"
#include "fairway/ops/attention_mma_cuda.h"
#include "fairway/ops/attention_simt_cuda.h"
#include "fairway/ops/attention_tiles_fill.cuh"
#include "fairway/ops/attention_varlen_cuda.cuh"
#include "fairway/ops/attention_varlen_sm90.cuh"
#include "fairway/ops/instantiate.h"

namespace fairway::cuda {

namespace {

constexpr int64_t kLargest = int64_t{1} << 31;

void check_shape(const AttentionShape& s) {
  check(s.d >= 1, "attention: head width below 1");
  require(s.d <= 256,
          "heads of width {} (model_dim / num_heads): attention on a GPU takes at most 256; choose "
          "more num_heads, or run on the CPU",
          s.d);
  check(s.K >= 1 && s.H >= s.K && s.H % s.K == 0, "attention: heads not a multiple of groups");
  check(s.T < kLargest && s.segments >= 0, "attention: too many rows");
  check(s.Q <= s.T && (s.Q > 0 || s.T == 0), "attention: no queries, or more than rows");
}

struct TileHeights {
  int32_t queries, keys;
};
TileHeights tile_heights(const AttentionShape& s, AttentionKernels kernels) {
  switch (kernels) {
    case AttentionKernels::sm90:
      return {attention_sm90::query_tile_height(s), attention_sm90::key_tile_height(s)};
    case AttentionKernels::mma:
      return {attention_mma::tile_height(s), attention_mma::tile_height(s)};
    default:
      return {attention_simt::tile_height(s), attention_simt::tile_height(s)};
  }
}

// Entries of the two lists.
int64_t query_entries(const AttentionShape& s, const TileHeights& heights) {
  return AttentionTiles::most(s.T, s.Q, s.segments, heights.queries);
}
int64_t key_entries(const AttentionShape& s, const TileHeights& heights) {
  return AttentionTile::slots(s.T, s.segments, heights.keys);
}

}  // namespace

template <class T>
AttentionKernels attention_kernels(const AttentionShape& s, int capability) {
  if (!std::is_same_v<T, bf16>) return AttentionKernels::simt;
  if (s.d == 64 && capability == 90) return AttentionKernels::sm90;
  if (attention_mma::supports(s) && capability >= 80) return AttentionKernels::mma;
  return AttentionKernels::simt;
}

size_t attention_plan_bytes(const AttentionShape& s) {
  size_t most = 0;
  for (const auto kernels :
       {AttentionKernels::simt, AttentionKernels::mma, AttentionKernels::sm90}) {
    const TileHeights heights = tile_heights(s, kernels);
    most = std::max(most, AttentionTiles::bytes(query_entries(s, heights)) +
                              AttentionTiles::bytes(key_entries(s, heights)));
  }
  return most;
}

AttentionPlan attention_plan(const AttentionShape& s, AttentionKernels kernels, void* memory) {
  check_shape(s);
  const TileHeights heights = tile_heights(s, kernels);
  const int64_t queries = query_entries(s, heights), keys = key_entries(s, heights);
  char* second = static_cast<char*>(memory) + AttentionTiles::bytes(queries);
  const AttentionPlan plan{s, kernels, AttentionTiles::in(memory, queries, heights.queries, true),
                           AttentionTiles::in(second, keys, heights.keys, false)};
  check(static_cast<int64_t>(std::max(plan.query_tiles.entries, plan.key_tiles.entries)) * s.H <
            kLargest,
        "attention: too many tiles");
  return plan;
}

void fill_attention_plan(cudaStream_t stream, const AttentionPlan& plan, const int32_t* cu_seqlens,
                         const int32_t* cu_queries) {
  fill_attention_tiles<<<2, kTileListThreads, 0, stream>>>(
      cu_seqlens, cu_queries, plan.shape.segments, plan.query_tiles, plan.key_tiles);
  cuda_check_launch("attention tile lists");
}

bool forward_fuses_xsa(const AttentionPlan& plan) {
  return plan.kernels == AttentionKernels::sm90;
}

template <class T>
void attention_forward(cudaStream_t stream, const AttentionPlan& plan, const T* q, const T* k,
                       const T* v, const float* q_gain, T* y, float* lse, float* y_dot_v) {
  const AttentionShape& s = plan.shape;
  if (s.T == 0) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (plan.kernels == AttentionKernels::sm90)
      return attention_sm90::forward(stream, s, plan.query_tiles, q, k, v, q_gain, y, lse, y_dot_v);
  check(!y_dot_v, "attention: these kernels do not include xsa");
  if constexpr (std::is_same_v<T, bf16>)
    if (plan.kernels == AttentionKernels::mma)
      return attention_mma::forward(stream, s, plan.query_tiles, q, k, v, y, lse);
  attention_simt::forward(stream, s, plan.query_tiles, q, k, v, y, lse);
}

size_t attention_workspace_bytes(const AttentionPlan& plan) {
  return plan.kernels == AttentionKernels::sm90 ? attention_sm90::row_terms_bytes(plan.shape) : 0;
}

bool backward_fuses_rope(const AttentionPlan& plan, int64_t half) {
  return plan.kernels == AttentionKernels::sm90 && half > 0 && half % 8 == 0;
}
int64_t attention_gain_partials(const AttentionPlan& plan) {
  return attention_sm90::gain_partials(plan.shape);
}

template <class T>
void attention_backward(cudaStream_t stream, const AttentionPlan& plan, const T* q, const T* k,
                        const T* v, const float* lse, const T* dy, const float* delta, T* dq, T* dk,
                        T* dv, void* workspace, const AttentionRope& rope) {
  const AttentionShape& s = plan.shape;
  if (s.T == 0) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (plan.kernels == AttentionKernels::sm90) {
      attention_sm90::backward_queries(stream, s, plan.query_tiles, q, k, v, lse, dy, delta, dq,
                                       workspace, rope);
      attention_sm90::backward_keys(stream, s, plan.key_tiles, q, k, v, dy, workspace, dk, dv,
                                    rope);
      return;
    }
  check(!rope.cosine, "attention: these kernels do not include norm and rotary");
  if constexpr (std::is_same_v<T, bf16>)
    if (plan.kernels == AttentionKernels::mma)
      return attention_mma::backward(stream, s, plan.query_tiles, plan.key_tiles, q, k, v, lse, dy,
                                     delta, dq, dk, dv);
  attention_simt::backward(stream, s, plan.query_tiles, plan.key_tiles, q, k, v, lse, dy, delta, dq,
                           dk, dv);
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template AttentionKernels attention_kernels<T>(const AttentionShape&, int);                  \
  template void attention_forward(cudaStream_t, const AttentionPlan&, const T*, const T*,      \
                                  const T*, const float*, T*, float*, float*);                 \
  template void attention_backward(cudaStream_t, const AttentionPlan&, const T*, const T*,     \
                                   const T*, const float*, const T*, const float*, T*, T*, T*, \
                                   void*, const AttentionRope&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::cuda
