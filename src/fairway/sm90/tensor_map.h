// Tensor maps: what the bulk tensor copy engine needs to know of a matrix in global memory.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/e4m3.h"

namespace fairway::sm90 {

constexpr int kBox = 64;  // rows of a box
constexpr int kBoxRowBytes = 128;
constexpr int kBoxBytes = kBox * kBoxRowBytes;
// Columns of a box: 64 of bf16, 128 of e4m3.
template <class T>
constexpr int kBoxWidth = kBoxRowBytes / static_cast<int>(sizeof(T));

// T, bf16 or e4m3, [rows, columns], rows `stride` elements apart, seen as boxes of 64 (box_rows) x
// kBoxWidth<T> in shared memory with 128-byte swizzle. The matrix must start at a multiple of 16
// bytes and its rows must be a multiple of 16 bytes apart. The map holds the address only: the
// matrix is not owned.
template <class T>
CUtensorMap tensor_map(const T* matrix, int64_t rows, int64_t columns, int64_t stride,
                       int box_rows = kBox);

// The same as boxes of 64 rows x 32 columns with 64-byte swizzle, for widths that 64 does not
// divide.
constexpr int kNarrowBox = 32;
constexpr int kNarrowBoxBytes = kBox * kNarrowBox * 2;
CUtensorMap tensor_map_narrow(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride);

// Such boxes, but of `box_rows` rows, of one of `count` matrices that begin `step` elements apart,
// a multiple of 8. Coordinates: column, row, matrix; what is outside a matrix reads as zero.
CUtensorMap tensor_map_narrow_each(const bf16* first, int64_t count, int64_t step, int64_t rows,
                                   int64_t columns, int box_rows);

// T [rows, columns] as boxes like those of `tensor_map`, but with the rows of every 32 in another
// order: row 8 q + 2 j + e lies at 8 j + 2 q + e (q, j < 4, e < 2). As B of a product whose
// accumulators have columns 8 j + 2 q + e in lane q of a quad, the lane gets columns 8 q … 8 q + 7
// of C. Coordinates: column, 0, 0, 0, row / 32; rows is a multiple of 32.
constexpr int kFragmentRows = 32;
template <class T>
CUtensorMap tensor_map_fragments(const T* matrix, int64_t rows, int64_t columns, int64_t stride);

}  // namespace fairway::sm90
