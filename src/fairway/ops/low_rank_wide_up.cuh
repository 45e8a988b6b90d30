// y += out_scale⊙(xa Bᵀ) for a wide y (low_rank_wide.cuh).
#pragma once

#include "fairway/ops/low_rank_wide.cuh"

namespace fairway::cuda::low_rank_wide {

constexpr int kUpThreads = 256;
constexpr int kWarpColumns = 32;                          // of y
constexpr int kUpSlice = kUpThreads / 32 * kWarpColumns;  // columns of y to a block
constexpr int kUpTileRows = 8 * kRows;                    // rows of y to a block

struct Up {
  LowRankUp<const float> up;
  const bf16* xa;  // its columns of [rows, xa_pitch]
  int64_t xa_pitch;
  bf16* y;  // [rows, up.out]
  int slices;
};

// A block owns a tile of one document's rows and kUpSlice columns, a warp kWarpColumns of them,
// whose B stays in its registers. Blocks of the same rows are neighbours.
template <int kRank>
__global__ void __launch_bounds__(kUpThreads, 2) up_kernel(const __grid_constant__ Up u) {
  wait_for_earlier_kernels();
  constexpr int kSteps = kRank / 16, kPitch = kXaPitch<kRank>;
  __shared__ __align__(16) char xa[kRows * kPitch];
  const int slice = static_cast<int>(blockIdx.x) % u.slices;
  const DocTile tile = find_doc_tile<kUpTileRows>(u.up.doc_rows.data, static_cast<int>(u.up.docs),
                                                  static_cast<int>(blockIdx.x) / u.slices);
  if (tile.rows == 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4, t = lane % 4;
  const int out = static_cast<int>(u.up.out);
  const int first_column = slice * kUpSlice + warp * kWarpColumns;
  const int column = first_column + 8 * t;  // of y, this lane's first of 8
  const bool idle = first_column >= out;

  bf16* const y_begin = u.y + (tile.begin + g) * out + column;
  uint4 y[kRows / 8];
  const auto y_row = [&](int row) { return reinterpret_cast<uint4*>(y_begin + row * out); };
  const auto load_y = [&](int first) {
#pragma unroll
    for (int r = 0; r < kRows / 8; ++r) {
      const int row = first + 8 * r;  // and g
      if (row + g < tile.rows && column < out) y[r] = *y_row(row);
    }
  };
  const auto fetch = [&](int first) {
    fetch_xa<kRank, kUpThreads>(xa, u.xa + (tile.begin + first) * u.xa_pitch, u.xa_pitch,
                                tile.rows - first);
    copy_async_commit();
    load_y(first);
  };
  fetch(0);

  // Of every 32 rows of B, lane g of instruction j has number 8·(g/2) + 2j + g%2: sums of four
  // instructions are then 8 neighbouring columns of y. Behind the last row, for columns that are
  // not written, the last 8 are read again. The next instruction's are under way.
  uint32_t b[4][kSteps][2];
  const int first_row = min(first_column + g / 2 * 8, out - 8) + g % 2;
  const float* const from = u.up.b + tile.doc * u.up.stride + int64_t{first_row} * kRank + 4 * t;
  struct Quads {
    float4 k[kSteps];
  };
  const auto load = [&](int j) {
    Quads v;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) v.k[k] = load_b(from + 2 * j * kRank + 16 * k);
    return v;
  };
  Quads next = load(0);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    Quads now = next;
    if (j + 1 < 4) next = load(j + 1);
    if (u.up.out_scale) {
      const float scale = u.up.out_scale[first_row + 2 * j];
#pragma unroll
      for (float4& x : now.k) x = {scale * x.x, scale * x.y, scale * x.z, scale * x.w};
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const float4& x = now.k[k];
      b[j][k][0] = pack_bf16(x.x, x.y);
      b[j][k][1] = pack_bf16(x.z, x.w);
    }
  }

  // Left operand: lane 8i + j addresses row j of matrix i; 1 and 3 are 8 rows down, 2 and 3 are the
  // other 8 columns.
  const int xa_at = (lane % 8 + lane / 8 % 2 * 8) * kPitch + lane / 16 * 16;
#pragma unroll 1
  for (int first = 0; first < tile.rows; first += kRows) {
    const int rows = tile.rows - first;
    if (first > 0) {
      __syncthreads();  // nobody reads the rows before any more
      fetch(first);
    }
    copy_async_wait<0>();
    __syncthreads();
    if (idle) continue;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
      if (16 * m >= rows) break;
      float sum[4][4] = {};
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t a[4];
        load_matrices(a, xa + xa_at + 16 * m * kPitch + 32 * k);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          mma_bf16(sum[j], a[0], a[1], a[2], a[3], b[j][k][0], b[j][k][1]);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = first + 16 * m + 8 * h;  // and g
        if (row + g >= tile.rows || column >= out) continue;
        using low_rank::add_pair;
        const uint4& before = y[2 * m + h];
        *y_row(row) = {add_pair(before.x, sum[0][2 * h], sum[0][2 * h + 1]),
                       add_pair(before.y, sum[1][2 * h], sum[1][2 * h + 1]),
                       add_pair(before.z, sum[2][2 * h], sum[2][2 * h + 1]),
                       add_pair(before.w, sum[3][2 * h], sum[3][2 * h + 1])};
      }
    }
  }
}

}  // namespace fairway::cuda::low_rank_wide
