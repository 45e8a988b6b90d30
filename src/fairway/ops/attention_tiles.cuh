// The work list of attention: every tile of every segment, and nothing else. cu_seqlens lives in
// device memory, so a kernel (attention_tiles_fill.cuh) writes the list there; launches are sized
// by what the host knows (rows, number of segments), and a captured graph may be replayed with
// another packing of the same capacity.
//
// Tiles start at their segment's first row and have a fixed height: what is computed for a segment
// depends neither on its position in the buffer nor on its neighbours.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fairway::cuda {

// One tile: rows [index * height, min(length, (index + 1) * height)) of the segment that occupies
// the rows [begin, begin + length) of the buffer.
struct alignas(16) AttentionTile {
  int32_t begin, length, index, segment;
  // Of the segment's rows those from first_query on are queries, a very large number if none are.
  // Row i of it is row query_begin + i of queries' tensors; query_begin may be negative.
  int32_t first_query, query_begin;

  // A numbering of all segments' tiles of `height` rows that needs no sum over segments: tile i of
  // this segment has number slot(height) + i, below slots(T, segments, height); some stay unused.
  // Σ ceil(length / height) over the segments is at most slots, too.
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
// between kernels; those whose blocks take tiles one after the other leave it so. Every tile of a
// list of queries holds at least one.
struct AttentionTiles {
  int32_t *count, *next;
  AttentionTile* tiles;
  int32_t entries, height;
  // Causal work grows with the row for tiles of queries and shrinks for tiles of keys: the tile
  // with most work comes first.
  bool last_tile_first;

  // The most tiles that hold Q of the T rows, the last ones of each segment: a segment's lie in one
  // more than they fill, and in a part of one more.
  static int64_t most(int64_t T, int64_t Q, int64_t segments, int64_t height) {
    return std::min(AttentionTile::slots(T, segments, height), Q / height + 2 * segments);
  }
  static size_t bytes(int64_t entries) {
    return sizeof(AttentionTile) * static_cast<size_t>(entries + 1);
  }
  // A list in `memory`, which is 16-byte aligned and has `bytes` bytes.
  static AttentionTiles in(void* memory, int64_t entries, int32_t height, bool last_tile_first) {
    int32_t* header = static_cast<int32_t*>(memory);
    return {header,
            header + 1,
            static_cast<AttentionTile*>(memory) + 1,
            static_cast<int32_t>(entries),
            height,
            last_tile_first};
  }
};

}  // namespace fairway::cuda
