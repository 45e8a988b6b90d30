// The kernel that writes the tile lists of a packing.
#pragma once

#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda {

constexpr int32_t kNoQuery = 1 << 30;

// Block 0 writes `queries`, block 1 `keys`. Segments come longest first, 1024 at a time (more
// segments than that are sorted within each 1024 only): blocks start in this order, so that the
// long ones do not come last and the tiles of a segment, which share keys and values, run at about
// the same time.
constexpr int kTileListThreads = 1024;

// cu_queries as in AttentionSegments, or null.
static __global__ void __launch_bounds__(kTileListThreads)
    fill_attention_tiles(const int32_t* cu_seqlens, const int32_t* cu_queries, int32_t segments,
                         AttentionTiles queries, AttentionTiles keys) {
  const AttentionTiles list = blockIdx.x == 0 ? queries : keys;
  __shared__ int32_t length_of[kTileListThreads], by_rank[kTileListThreads];
  __shared__ int32_t first_of[kTileListThreads], warp_sum[32];
  // Tiles of queries begin where the queries do. Without queries in the segment there are none.
  const auto first_query = [&](int32_t segment, int32_t length) {
    if (cu_queries == nullptr) return 0;
    const int32_t count = cu_queries[segment + 1] - cu_queries[segment];
    return count > 0 ? length - count : kNoQuery;
  };
  const auto skipped = [&](int32_t segment, int32_t length) {
    return blockIdx.x == 0 ? first_query(segment, length) / list.height : 0;
  };
  const auto tiles_of = [&](int32_t segment, int32_t length) {
    return max(0, (length + list.height - 1) / list.height - skipped(segment, length));
  };
  const int32_t t = static_cast<int32_t>(threadIdx.x), lane = t & 31, warp = t >> 5;
  int32_t base = 0;
  for (int32_t s0 = 0; s0 < segments; s0 += kTileListThreads) {
    const int32_t n = min(kTileListThreads, segments - s0);
    const int32_t length = t < n ? cu_seqlens[s0 + t + 1] - cu_seqlens[s0 + t] : 0;
    length_of[t] = length;
    __syncthreads();
    int32_t rank = 0;
    if (t < n) {
      for (int32_t u = 0; u < n; ++u)
        rank += (length_of[u] > length || (length_of[u] == length && u < t)) ? 1 : 0;
      by_rank[rank] = t;
    }
    __syncthreads();
    // Exclusive prefix sum of the tile counts in rank order; thread t holds rank t.
    const int32_t tiles = t < n ? tiles_of(s0 + by_rank[t], length_of[by_rank[t]]) : 0;
    int32_t sum = tiles;
    for (int32_t step = 1; step < 32; step *= 2) {
      const int32_t below = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (lane >= step) sum += below;
    }
    if (lane == 31) warp_sum[warp] = sum;
    __syncthreads();
    int32_t before = base;
    for (int32_t w = 0; w < warp; ++w) before += warp_sum[w];
    for (int32_t w = 0; w < 32; ++w) base += warp_sum[w];
    first_of[t] = before + sum - tiles;
    __syncthreads();
    for (int32_t r = warp; r < n; r += 32) {
      const int32_t s = s0 + by_rank[r], rows = length_of[by_rank[r]];
      const int32_t count = tiles_of(s, rows), before_first = skipped(s, rows);
      const int32_t begin = cu_seqlens[s], first = first_query(s, rows);
      const int32_t query_begin = cu_queries == nullptr ? begin : cu_queries[s] - first;
      for (int32_t i = lane; i < count; i += 32)
        list.tiles[first_of[r] + i] = {
            begin, rows,  before_first + (list.last_tile_first ? count - 1 - i : i),
            s,     first, query_begin};
    }
    __syncthreads();
  }
  for (int32_t i = base + t; i < list.entries; i += kTileListThreads) list.tiles[i] = {};
  if (t == 0) {
    *list.count = base;
    *list.next = 0;
  }
}

}  // namespace fairway::cuda
