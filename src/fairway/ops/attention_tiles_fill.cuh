// The kernel that writes the tile lists of a packing.
#pragma once

#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda {

// Block b writes list b. Segments come longest first, 1024 at a time (more segments than that are
// sorted within each 1024 only): blocks start in this order, so that the long ones do not come last
// and the tiles of a segment, which share keys and values, run at about the same time.
constexpr int kTileListThreads = 1024;

static __global__ void __launch_bounds__(kTileListThreads)
    fill_attention_tiles(const int32_t* cu_seqlens, int32_t segments, AttentionTiles list0,
                         AttentionTiles list1) {
  const AttentionTiles list = blockIdx.x == 0 ? list0 : list1;
  __shared__ int32_t length_of[kTileListThreads], by_rank[kTileListThreads];
  __shared__ int32_t first_of[kTileListThreads], warp_sum[32];
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
    const int32_t tiles = t < n ? (length_of[by_rank[t]] + list.height - 1) / list.height : 0;
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
      const int32_t s = by_rank[r], rows = length_of[s];
      const int32_t count = (rows + list.height - 1) / list.height;
      const int32_t begin = cu_seqlens[s0 + s];
      for (int32_t i = lane; i < count; i += 32)
        list.tiles[first_of[r] + i] = {begin, rows, list.last_tile_first ? count - 1 - i : i,
                                       s0 + s};
    }
    __syncthreads();
  }
  for (int32_t i = base + t; i < list.entries; i += kTileListThreads) list.tiles[i] = {0, 0, 0, 0};
  if (t == 0) {
    *list.count = base;
    *list.next = 0;
  }
}

}  // namespace fairway::cuda
