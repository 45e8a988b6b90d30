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

// One of several parts of K, and a block in it.
struct GemmSegment {
  int index;
  int offset;
};

// What an epilogue may know of a consumer's tile.
struct GemmTileAt {
  int row, column;  // the tile's first row and column, of this consumer
  int64_t slot;     // (row tile, column tile, consumer, thread) in row-major order
};

}  // namespace fairway::sm90
