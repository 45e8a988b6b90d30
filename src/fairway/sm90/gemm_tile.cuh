// Shapes of the matrix product's tiles, and what an epilogue sees of them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fairway/sm90/tensor_map.h"

namespace fairway::sm90 {

constexpr int kGemmThreads = 384;  // a producer and two consumer warpgroups
constexpr int kTileRows = 128;
constexpr int kMaxParts = 3;  // of an operand

// What an epilogue may know of a thread's place in a tile.
struct GemmTileAt {
  int row, column;  // the thread's first
  int row_end;      // with adapters: where the tile's document ends
  int64_t slot;     // (row tile, column tile, consumer, thread) in row-major order
};

// Over the four lanes of a quad, which hold a row of the tile.
__device__ __forceinline__ float quad_sum(float x) {
  constexpr unsigned kAllLanes = 0xFFFFFFFFu;
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

// A thread's elements of a matrix [rows, columns], as an epilogue sees them.
struct TileElements {
  int64_t first;     // the thread's first element
  int64_t columns;   // a row's
  int rows_left;     // from the thread's first row
  int columns_left;  // from its first column

  __device__ __forceinline__ TileElements(const GemmTileAt& at, int rows, int width)
      : first(static_cast<int64_t>(at.row) * width + at.column),
        columns(width),
        rows_left(rows - at.row),
        columns_left(width - at.column) {}
  // Of chunk c, element 0 of v[p].
  __device__ __forceinline__ int64_t offset(int c, int p) const {
    return first + p % 2 * 8 * columns + c * 64 + p / 2 * 32;
  }
  // Whether row p % 2 exists, and with chunk c: widths are multiples of a chunk's.
  __device__ __forceinline__ bool has_row(int p) const { return p % 2 * 8 < rows_left; }
  __device__ __forceinline__ bool valid(int c, int p) const {
    return has_row(p) && c * 64 < columns_left;
  }
  // The same where widths are multiples of 8.
  __device__ __forceinline__ bool has(int c, int p) const {
    return has_row(p) && c * 64 + p / 2 * 32 < columns_left;
  }
};

}  // namespace fairway::sm90
