// Attention on CUDA: the tile lists, the choice of kernels, and the launches of the general ones.
#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_error.h"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_varlen_cuda.cuh"
#include "fairway/ops/attention_varlen_simt.cuh"
#include "fairway/ops/attention_varlen_sm90.cuh"

namespace fairway::cuda {

namespace {

template <class T>
using Storage = std::conditional_t<std::is_same_v<T, bf16>, __nv_bfloat16, T>;

template <class T>
const Storage<T>* storage(const T* p) {
  return reinterpret_cast<const Storage<T>*>(p);
}
template <class T>
Storage<T>* storage(T* p) {
  return reinterpret_cast<Storage<T>*>(p);
}

bool is_hopper() {
  int device = 0, major = 0, minor = 0;
  require_success(cudaGetDevice(&device), "attention: current device");
  require_success(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                  "attention: compute capability");
  require_success(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                  "attention: compute capability");
  return major == 9 && minor == 0;
}

// A broken precondition: a bug of the caller.
void check(bool ok, const char* what) {
  if (!ok) throw std::logic_error(what);
}

void check_shape(const AttentionShape& s, size_t workspace_bytes) {
  check(s.d >= 1 && s.d <= 256, "attention: head width outside 1..256");
  check(s.K >= 1 && s.H >= s.K && s.H % s.K == 0, "attention: heads not a multiple of groups");
  check(s.T < (int64_t{1} << 31) && s.segments >= 0, "attention: too many rows");
  check(workspace_bytes >= attention_workspace_bytes(s), "attention: workspace too small");
}

// The shortest tiles of any kernel, which make the longest list.
constexpr int kShortestTile = simt::kTileRows;

// The workspace: two tile lists, then what the chosen kernels want.
size_t lists_bytes(const AttentionShape& s) {
  return 2 * AttentionTiles::bytes(s.T, s.segments, kShortestTile);
}
AttentionTiles list_in(const AttentionShape& s, void* workspace, int which, int32_t height,
                       bool last_tile_first) {
  char* memory = static_cast<char*>(workspace) +
                 static_cast<size_t>(which) * AttentionTiles::bytes(s.T, s.segments, kShortestTile);
  return AttentionTiles::in(memory, s.T, s.segments, height, last_tile_first);
}

void fill(cudaStream_t stream, const AttentionShape& s, const int32_t* cu_seqlens,
          const AttentionTiles& list0) {
  fill_attention_tiles<<<1, kTileListThreads, 0, stream>>>(cu_seqlens, s.segments, list0, list0);
  require_success(cudaGetLastError(), "attention tile list");
}
void fill(cudaStream_t stream, const AttentionShape& s, const int32_t* cu_seqlens,
          const AttentionTiles& list0, const AttentionTiles& list1) {
  fill_attention_tiles<<<2, kTileListThreads, 0, stream>>>(cu_seqlens, s.segments, list0, list1);
  require_success(cudaGetLastError(), "attention tile list");
}

unsigned blocks(const AttentionTiles& tiles, int per_tile) {
  const int64_t n = static_cast<int64_t>(tiles.entries) * per_tile;
  check(n < (int64_t{1} << 31), "attention: too many tiles");
  return static_cast<unsigned>(n);
}

float softmax_scale(int d) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
}

// f(integral_constant<int, kD>): the narrowest compiled width that holds d.
template <class F>
void with_width(int d, F&& f) {
  if (d <= 32)
    f(std::integral_constant<int, 32>());
  else if (d <= 64)
    f(std::integral_constant<int, 64>());
  else if (d <= 128)
    f(std::integral_constant<int, 128>());
  else
    f(std::integral_constant<int, 256>());
}

}  // namespace

size_t attention_workspace_bytes(const AttentionShape& s) {
  return lists_bytes(s) + (attention_sm90::supports(s) ? attention_sm90::row_terms_bytes(s) : 0);
}

template <class T>
void attention_forward_simt(cudaStream_t stream, const AttentionShape& s, const T* q, const T* k,
                            const T* v, const int32_t* cu_seqlens, T* y, float* lse,
                            void* workspace, size_t workspace_bytes) {
  check_shape(s, workspace_bytes);
  if (s.T == 0) return;
  const AttentionTiles list = list_in(s, workspace, 0, simt::kTileRows, true);
  fill(stream, s, cu_seqlens, list);
  with_width(s.d, [&](auto width) {
    simt::forward<Storage<T>, decltype(width)::value>
        <<<blocks(list, s.H), simt::kThreads, 0, stream>>>(list, s.T, s.H, s.K, s.d,
                                                           softmax_scale(s.d), storage(q),
                                                           storage(k), storage(v), storage(y), lse);
  });
  require_success(cudaGetLastError(), "attention forward");
}

template <class T>
void attention_backward_simt(cudaStream_t stream, const AttentionShape& s, const T* q, const T* k,
                             const T* v, const int32_t* cu_seqlens, const float* lse, const T* dy,
                             const float* delta, T* dq, T* dk, T* dv, void* workspace,
                             size_t workspace_bytes) {
  check_shape(s, workspace_bytes);
  if (s.T == 0) return;
  const AttentionTiles query_tiles = list_in(s, workspace, 0, simt::kTileRows, true);
  const AttentionTiles key_tiles = list_in(s, workspace, 1, simt::kTileRows, false);
  fill(stream, s, cu_seqlens, query_tiles, key_tiles);
  with_width(s.d, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    simt::backward_keys<Storage<T>, kD><<<blocks(key_tiles, s.K), simt::kThreads, 0, stream>>>(
        key_tiles, s.T, s.H, s.K, s.d, softmax_scale(s.d), storage(q), storage(k), storage(v), lse,
        storage(dy), delta, storage(dk), storage(dv));
    simt::backward_queries<Storage<T>, kD><<<blocks(query_tiles, s.H), simt::kThreads, 0, stream>>>(
        query_tiles, s.T, s.H, s.K, s.d, softmax_scale(s.d), storage(q), storage(k), storage(v),
        lse, storage(dy), delta, storage(dq));
  });
  require_success(cudaGetLastError(), "attention backward");
}

template <class T>
void attention_forward(cudaStream_t stream, const AttentionShape& s, const T* q, const T* k,
                       const T* v, const int32_t* cu_seqlens, T* y, float* lse, void* workspace,
                       size_t workspace_bytes) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (s.T > 0 && attention_sm90::supports(s) && is_hopper()) {
      check_shape(s, workspace_bytes);
      const int32_t height = attention_sm90::forward_tile_rows(s);
      const AttentionTiles list = list_in(s, workspace, 0, height, true);
      fill(stream, s, cu_seqlens, list);
      attention_sm90::forward(stream, s, list, q, k, v, y, lse);
      return;
    }
  }
  attention_forward_simt(stream, s, q, k, v, cu_seqlens, y, lse, workspace, workspace_bytes);
}

template <class T>
void attention_backward(cudaStream_t stream, const AttentionShape& s, const T* q, const T* k,
                        const T* v, const int32_t* cu_seqlens, const float* lse, const T* dy,
                        const float* delta, T* dq, T* dk, T* dv, void* workspace,
                        size_t workspace_bytes) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (s.T > 0 && attention_sm90::supports(s) && is_hopper()) {
      check_shape(s, workspace_bytes);
      const int32_t query_rows = attention_sm90::backward_query_tile_rows(s);
      const int32_t key_rows = attention_sm90::backward_key_tile_rows(s);
      const AttentionTiles query_tiles = list_in(s, workspace, 0, query_rows, true);
      const AttentionTiles key_tiles = list_in(s, workspace, 1, key_rows, false);
      fill(stream, s, cu_seqlens, query_tiles, key_tiles);
      void* row_terms = static_cast<char*>(workspace) + lists_bytes(s);
      attention_sm90::backward_queries(stream, s, query_tiles, q, k, v, lse, dy, delta, dq,
                                       row_terms);
      attention_sm90::backward_keys(stream, s, key_tiles, q, k, v, dy, row_terms, dk, dv);
      return;
    }
  }
  attention_backward_simt(stream, s, q, k, v, cu_seqlens, lse, dy, delta, dq, dk, dv, workspace,
                          workspace_bytes);
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void attention_forward(cudaStream_t, const AttentionShape&, const T*, const T*,         \
                                  const T*, const int32_t*, T*, float*, void*, size_t);            \
  template void attention_backward(cudaStream_t, const AttentionShape&, const T*, const T*,        \
                                   const T*, const int32_t*, const float*, const T*, const float*, \
                                   T*, T*, T*, void*, size_t);                                     \
  template void attention_forward_simt(cudaStream_t, const AttentionShape&, const T*, const T*,    \
                                       const T*, const int32_t*, T*, float*, void*, size_t);       \
  template void attention_backward_simt(cudaStream_t, const AttentionShape&, const T*, const T*,   \
                                        const T*, const int32_t*, const float*, const T*,          \
                                        const float*, T*, T*, T*, void*, size_t);
FAIRWAY_INSTANTIATE(float)
FAIRWAY_INSTANTIATE(bf16)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::cuda
