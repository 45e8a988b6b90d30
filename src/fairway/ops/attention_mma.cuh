// What the attention kernels on mma.sync share: tiles of 64 rows in shared memory and their
// products. A block has four warps; each owns 16 rows of a product. Lane l holds of a product's
// columns 8j … 8j+7, in c[j][2h + e], row 8h + l/4 of the warp's 16, column 8j + 2(l%4) + e.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/ops/mma_cuda.h"

namespace fairway::cuda::attention_mma {

constexpr int kTile = 64, kThreads = 128;

// Rows are 16 bytes further apart than they are long: the eight rows of a matrix that ldmatrix
// reads lie in different banks.
template <int kD>
struct alignas(16) Tile {
  __nv_bfloat16 row[kTile][kD + 8];
};

// A left operand of kK columns: [16 columns][fragment register].
template <int kK>
using Fragment = uint32_t[kK / 16][4];

// The row and column in a tile of element e of c[j].
__device__ __forceinline__ int row_of(int warp, int lane, int e) {
  return 16 * warp + lane / 4 + 8 * (e / 2);
}
__device__ __forceinline__ int column_of(int lane, int j, int e) {
  return 8 * j + 2 * (lane % 4) + e % 2;
}

// Starts copies of rows `stride` elements apart, of which [first, rows) exist; the others become
// zero.
template <int kD>
__device__ __forceinline__ void load_tile(Tile<kD>& tile, const __nv_bfloat16* from, int64_t stride,
                                          int rows, int first = 0) {
  constexpr int kPieces = kD / 8;
#pragma unroll
  for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = at / kPieces, piece = at % kPieces;
    const bool exists = row >= first && row < rows;
    copy_async_16_or_zero(&tile.row[row][8 * piece],
                          from + (exists ? row : first) * stride + 8 * piece, exists);
  }
}

// c = A Bᵀ: the warp's rows of `a`, rows [first, first + kN) of `b`.
template <int kD, int kN>
__device__ __forceinline__ void multiply_rows(float (&c)[kN / 8][4], const Tile<kD>& a,
                                              const Tile<kD>& b, int first, int warp, int lane) {
#pragma unroll
  for (int j = 0; j < kN / 8; ++j)
#pragma unroll
    for (float& x : c[j]) x = 0;
#pragma unroll
  for (int k = 0; k < kD; k += 16) {
    uint32_t x[4];
    load_matrices(x, &a.row[16 * warp + lane % 16][k + 8 * (lane / 16)]);
#pragma unroll
    for (int n = 0; n < kN; n += 16) {
      uint32_t y[4];
      load_matrices(y, &b.row[first + n + lane % 8 + 8 * (lane / 16)][k + 8 * (lane / 8 % 2)]);
      mma_bf16(c[n / 8], x[0], x[1], x[2], x[3], y[0], y[1]);
      mma_bf16(c[n / 8 + 1], x[0], x[1], x[2], x[3], y[2], y[3]);
    }
  }
}

// c += A B: B is the rows [first, first + kK) of `b`.
template <int kK, int kD>
__device__ __forceinline__ void add_product(float (&c)[kD / 8][4], const Fragment<kK>& a,
                                            const Tile<kD>& b, int first, int lane) {
#pragma unroll
  for (int k = 0; k < kK / 16; ++k)
#pragma unroll
    for (int n = 0; n < kD; n += 16) {
      uint32_t y[4];
      load_matrices_transposed(y, &b.row[first + 16 * k + lane % 16][n + 8 * (lane / 16)]);
      mma_bf16(c[n / 8], a[k][0], a[k][1], a[k][2], a[k][3], y[0], y[1]);
      mma_bf16(c[n / 8 + 1], a[k][0], a[k][1], a[k][2], a[k][3], y[2], y[3]);
    }
}

// A product's result, rounded, as the left operand of the next.
template <int kN>
__device__ __forceinline__ void to_fragment(const float (&c)[kN / 8][4], Fragment<kN>& a) {
#pragma unroll
  for (int k = 0; k < kN / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[k][i] = pack_bf16(c[2 * k + i / 2][2 * (i % 2)], c[2 * k + i / 2][2 * (i % 2) + 1]);
}

// Adds the warp's 16 rows in global memory, `stride` elements apart, to c; `rows` rows of the whole
// tile exist. Overwrites the warp's rows of `scratch`.
template <int kD>
__device__ __forceinline__ void add_rows(float (&c)[kD / 8][4], Tile<kD>& scratch, int warp,
                                         int lane, const __nv_bfloat16* from, int64_t stride,
                                         int rows) {
  constexpr int kPieces = kD / 8;
#pragma unroll
  for (int i = 0; i < kPieces / 2; ++i) {
    const int at = 32 * i + lane, row = 16 * warp + at / kPieces, piece = at % kPieces;
    uint4 x = {0, 0, 0, 0};
    if (row < rows) x = *reinterpret_cast<const uint4*>(from + row * stride + 8 * piece);
    *reinterpret_cast<uint4*>(&scratch.row[row][8 * piece]) = x;
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kD / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(
          &scratch.row[row_of(warp, lane, e)][column_of(lane, j, e)]));
      c[j][e] += x.x;
      c[j][e + 1] += x.y;
    }
  __syncwarp();
}

// Rounds factor · c and writes rows [first, rows) of it, otherwise like add_rows.
template <int kD>
__device__ __forceinline__ void store_rows(const float (&c)[kD / 8][4], float factor,
                                           Tile<kD>& scratch, int warp, int lane, __nv_bfloat16* to,
                                           int64_t stride, int rows, int first = 0) {
  constexpr int kPieces = kD / 8;
#pragma unroll
  for (int j = 0; j < kD / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; e += 2)
      *reinterpret_cast<uint32_t*>(&scratch.row[row_of(warp, lane, e)][column_of(lane, j, e)]) =
          pack_bf16(factor * c[j][e], factor * c[j][e + 1]);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPieces / 2; ++i) {
    const int at = 32 * i + lane, row = 16 * warp + at / kPieces, piece = at % kPieces;
    if (row >= first && row < rows)
      *reinterpret_cast<uint4*>(to + row * stride + 8 * piece) =
          *reinterpret_cast<const uint4*>(&scratch.row[row][8 * piece]);
  }
}

// step(i, stage) for i in [0, count), with load(i, stage) of this step done and, where there are
// two stages, that of the next one under way.
template <int kStages, class Load, class Step>
__device__ __forceinline__ void pipelined(int count, Load&& load, Step&& step) {
  const auto start = [&](int i) {
    load(i, i % kStages);
    copy_async_commit();
  };
  if (count > 0) start(0);
  for (int i = 0; i < count; ++i) {
    if (kStages == 2 && i + 1 < count) {
      start(i + 1);
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();
    step(i, i % kStages);
    __syncthreads();
    if (kStages == 1 && i + 1 < count) start(i + 1);
  }
}

}  // namespace fairway::cuda::attention_mma
