// What the Hopper attention kernels share: products of 64 x 64 tiles, fragments, the causal mask of
// a diagonal tile, and the way of a warp's 16 rows between registers and global memory.
//
// Every tile is 64 rows of d = 64 bf16 values, 128 bytes a row with 128-byte swizzle, as one TMA
// box. Thread t of a warpgroup holds of a 64 x 64 product, in d[4j + 2h + e], row 16(t/32) + 8h +
// (t%32)/4, column 8j + 2(t%4) + e.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/ops/attention_exp2.cuh"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/sm90/matrix_move.cuh"
#include "fairway/sm90/wgmma.cuh"

namespace fairway::cuda::attention_sm90 {

using namespace fairway::sm90;

constexpr int kTile = 64;
constexpr int kTileBytes = kTile * kTile * 2;

// What the gradients of keys need of the queries of one head in a tile, as one aligned piece, the
// same for every tile: rows that are no queries have lse = +∞, which makes their probabilities
// zero. The kernel for the queries' gradient writes it; [AttentionTile::slots(T, segments, kTile)]
// [H] of them. Laid out so that a thread of the keys' kernel, whose products have these rows as
// columns, loads 16 bytes at a time.
struct RowTerms {
  float4 lse_log2[kTile / 16][4];    // lse · log2(e); [i][c]: of columns 16i + 2c + {0, 1, 8, 9}
  float4 minus_delta[kTile / 8][4];  // −delta; [j][c]: of columns 8j + 2c + {0, 1}, twice

  __device__ __forceinline__ void set(int row, float lse_of_row, float delta_of_row) {
    const int c = row % 8 / 2, e = row % 2;
    reinterpret_cast<float*>(&lse_log2[row / 16][c])[2 * (row / 8 % 2) + e] = lse_of_row;
    float* twice = reinterpret_cast<float*>(&minus_delta[row / 8][c]);
    twice[e] = twice[2 + e] = -delta_of_row;
  }
};

// Rows of a tile of queries: two warpgroups share its keys, as two heads or as two halves.
constexpr int query_tile_rows(bool pair_heads) {
  return pair_heads ? kTile : 2 * kTile;
}
// The last tile of keys that a tile of `height` queries sees.
__device__ __forceinline__ int last_key_tile(const AttentionTile& tile, int height) {
  return (min(tile.length, (tile.index + 1) * height) - 1) / kTile;
}

// A 64 x 64 bf16 operand in registers: [step of 16 columns][fragment register].
using Fragment = uint32_t[4][4];

// The descriptors of tiles that lie `bytes` apart, as the low word of the first one's: a value that
// the compiler keeps in a register, instead of making it anew from the address every time.
class TileDescriptors {
 public:
  __device__ __forceinline__ TileDescriptors(uint64_t first, uint32_t bytes)
      : high_(first & 0xFFFFFFFF00000000u), low_(static_cast<uint32_t>(first)), step_(bytes >> 4) {
    asm volatile("" : "+r"(low_));
  }
  __device__ __forceinline__ uint64_t operator[](int i) const {
    return high_ | (low_ + static_cast<uint32_t>(i) * step_);
  }

 private:
  uint64_t high_;
  uint32_t low_, step_;
};

// d = A Bᵀ, or d += A Bᵀ where kAccumulate; both tiles in shared memory with their rows' 64 columns
// as the inner dimension.
template <bool kAccumulate = false>
__device__ __forceinline__ void multiply_rows(float (&d)[32], uint64_t a, uint64_t b) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
    wgmma_m64n64k16<0, 0>(d, wgmma_advance(a, 32 * k), wgmma_advance(b, 32 * k),
                          kAccumulate || k > 0);
}
// d += A B, A in registers, the rows of B as the inner dimension.
__device__ __forceinline__ void add_product(float (&d)[32], const Fragment& a, uint64_t b) {
#pragma unroll
  for (int k = 0; k < 4; ++k) wgmma_m64n64k16<1>(d, a[k], wgmma_advance(b, 2048 * k), true);
}

// Masks this thread's part of the scores of a diagonal tile: no query sees a later key.
__device__ __forceinline__ void mask_diagonal(float (&score)[32], int warp, int lane) {
  const int row_minus_column = 16 * warp + lane / 4 - 2 * (lane % 4);
#pragma unroll
  for (int j = 0; j < 32; ++j)
    if (8 * (j / 4) + j % 2 - 8 * (j / 2 % 2) > row_minus_column) score[j] = -INFINITY;
}

// Keeps the compiler from moving the making of a fragment past a fence.
__device__ __forceinline__ void pin(Fragment& a) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[k][i])::"memory");
}

// A product's result, rounded, as the left operand of the next.
__device__ __forceinline__ void to_fragment(const float (&d)[32], Fragment& a) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) a[k][i] = pack_bf16(d[8 * k + 2 * i], d[8 * k + 2 * i + 1]);
}

// The sum over the 2^n lanes that agree in all but their lowest n bits.
template <int kLanes>
__device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  return x;
}

// Offset of 16-byte piece `piece` of row `row` of a swizzled tile.
__device__ __forceinline__ uint32_t swizzled(int row, int piece) {
  return static_cast<uint32_t>(row * 128 + ((piece ^ (row & 7)) << 4));
}

// The offset that this lane passes to ldmatrix/stmatrix for step 0 of its warp's rows; step k is at
// this offset with bits 5-6 exclusive-ored by k.
__device__ __forceinline__ uint32_t matrix_row_offset(int warp, int lane) {
  return swizzled(16 * warp + (lane & 15), lane >> 4);
}

// This warp's 16 rows of a tile in shared memory.
__device__ __forceinline__ void load_fragment(uint32_t tile, int warp, int lane, Fragment& a) {
  const uint32_t at = tile + matrix_row_offset(warp, lane);
#pragma unroll
  for (int k = 0; k < 4; ++k) load_matrix_x4(at ^ (k << 5), a[k][0], a[k][1], a[k][2], a[k][3]);
}
__device__ __forceinline__ void store_fragment(uint32_t tile, int warp, int lane,
                                               const Fragment& a) {
  const uint32_t at = tile + matrix_row_offset(warp, lane);
#pragma unroll
  for (int k = 0; k < 4; ++k) store_matrix_x4(at ^ (k << 5), a[k][0], a[k][1], a[k][2], a[k][3]);
}

// Copies this warp's 16 rows between a tile in shared memory and global rows `stride` elements
// apart, 16 bytes a lane; of the whole tile the rows [first, rows) exist.
__device__ __forceinline__ void copy_rows_out(const char* tile, int warp, int lane,
                                              __nv_bfloat16* to, int64_t stride, int rows,
                                              int first) {
  const int row0 = 16 * warp + lane / 8, piece = lane % 8;
  __nv_bfloat16* out = to + row0 * stride + 8 * piece;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm("" : "+l"(out));  // or the compiler multiplies anew for every row
    const int row = row0 + 4 * i;
    if (row >= first && row < rows)
      *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(tile + swizzled(row, piece));
    out += 4 * stride;
  }
}
// The same into shared memory in two parts, between which the loads are under way.
struct RowPieces {
  uint4 of[4];
};
__device__ __forceinline__ RowPieces load_rows(const __nv_bfloat16* from, int64_t stride, int rows,
                                               int warp, int lane) {
  RowPieces pieces;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 16 * warp + 4 * i + lane / 8, piece = lane % 8;
    pieces.of[i] = {0, 0, 0, 0};
    if (row < rows) pieces.of[i] = *reinterpret_cast<const uint4*>(from + row * stride + 8 * piece);
  }
  return pieces;
}
__device__ __forceinline__ void put_rows(const RowPieces& pieces, char* tile, int warp, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    *reinterpret_cast<uint4*>(tile + swizzled(16 * warp + 4 * i + lane / 8, lane % 8)) =
        pieces.of[i];
}

// Zeros in the rows that the warp would copy.
__device__ __forceinline__ void clear_rows(__nv_bfloat16* to, int64_t stride, int rows, int warp,
                                           int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 16 * warp + 4 * i + lane / 8, piece = lane % 8;
    if (row < rows) *reinterpret_cast<uint4*>(to + row * stride + 8 * piece) = {0, 0, 0, 0};
  }
}

// Rounds factor · d and writes the rows [first, rows) of it; `tile` is scratch of which the warp
// uses its own 16 rows.
__device__ __forceinline__ void store_rows(const float (&d)[32], float factor, char* tile, int warp,
                                           int lane, __nv_bfloat16* to, int64_t stride, int rows,
                                           int first = 0) {
  Fragment a;
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[k][i] = pack_bf16(factor * d[8 * k + 2 * i], factor * d[8 * k + 2 * i + 1]);
  store_fragment(shared_address(tile), warp, lane, a);
  __syncwarp();
  copy_rows_out(tile, warp, lane, to, stride, rows, first);
}

}  // namespace fairway::cuda::attention_sm90
