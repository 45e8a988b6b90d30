// Shapes of the matrix product's tiles, and what an epilogue sees of them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fairway/sm90/tensor_map.h"

namespace fairway::sm90 {

// The axis along which an operand's elements are contiguous in memory.
enum class Major { kK, kMN };

constexpr int kGemmThreads = 384;  // a producer and two consumer warpgroups
constexpr int kTileRows = 128;
constexpr int kBlockK = 64;
constexpr int kMaxSegments = 3;

// One of several matrices beside each other, and a place in it.
struct GemmSegment {
  int index;
  int offset;
};

// What an epilogue may know of a consumer's tile.
struct GemmTileAt {
  int row, column;  // the tile's first row, and column within its segment, of this consumer
  int segment;
  int warp, lane;  // of the consumer warpgroup
  int unit;        // the work unit's place among all, with the block and consumer below it
  int64_t slot;    // (row tile, column tile, consumer, thread) in row-major order

  // The row of this thread's accumulators 0 and 1 (of half h: + 8 h), within the tile.
  __device__ __forceinline__ int fragment_row() const { return warp * 16 + lane / 4; }
  __device__ __forceinline__ int fragment_column() const { return lane % 4 * 2; }
};

}  // namespace fairway::sm90
