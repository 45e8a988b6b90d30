// The work list of attention: every tile of every segment, and nothing else. cu_seqlens lives in
// device memory, so a one-block-per-list kernel writes the list there; launches are sized by what
// the host knows (rows, number of segments), and a captured graph may be replayed with another
// packing of the same capacity.
//
// Tiles start at their segment's first row and have a fixed height: what is computed for a segment
// depends neither on its position in the buffer nor on its neighbours.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fairway::cuda {

// One tile: rows [index * height, min(length, (index + 1) * height)) of the segment that occupies
// the rows [begin, begin + length) of the buffer.
struct alignas(16) AttentionTile {
  int32_t begin, length, index, segment;

  // A numbering of all segments' tiles of `height` rows that needs no sum over segments: tile i of
  // this segment has number slot(height) + i, below slots(T, segments, height); some stay unused.
#ifdef __CUDACC__
  __device__
#endif
      int32_t
      slot(int32_t height) const {
    return begin / height + segment;
  }
  static int64_t slots(int64_t T, int64_t segments, int64_t height) {
    return T / height + segments;
  }
};

// A list in device memory: *count tiles, then tiles of length 0 up to `entries`. *next is zero
// after filling, for blocks that take tiles one after the other.
struct AttentionTiles {
  int32_t *count, *next;
  AttentionTile* tiles;
  int32_t entries, height;
  // Causal work grows with the row for tiles of queries and shrinks for tiles of keys: the tile
  // with most work comes first.
  bool last_tile_first;

  // Σ ceil(length / height) over `segments` segments of T rows in all is at most this.
  static int64_t capacity(int64_t T, int64_t segments, int64_t height) {
    return T / height + segments;
  }
  static size_t bytes(int64_t T, int64_t segments, int64_t height) {
    return sizeof(AttentionTile) * static_cast<size_t>(capacity(T, segments, height) + 1);
  }
  // A list in `memory`, which is 16-byte aligned and has `bytes` bytes.
  static AttentionTiles in(void* memory, int64_t T, int64_t segments, int32_t height,
                           bool last_tile_first) {
    int32_t* header = static_cast<int32_t*>(memory);
    return {header,
            header + 1,
            static_cast<AttentionTile*>(memory) + 1,
            static_cast<int32_t>(capacity(T, segments, height)),
            height,
            last_tile_first};
  }
};

#ifdef __CUDACC__

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

#endif

}  // namespace fairway::cuda
