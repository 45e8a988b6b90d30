// Back through gain, rotary and norm (rope_gain.h) in the epilogues of the Hopper kernels of
// attention's gradients, on tiles of 64 rows of d = 64. `half` is a multiple of 8: both columns of
// a rotated pair are then one thread's.
#pragma once

#include "fairway/ops/attention_varlen_cuda.cuh"
#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/sm90/prefetch.cuh"

namespace fairway::cuda::attention_sm90 {

// What one head's rows of a tile need, from the tile's first row on; those of [first, rows) exist.
struct RopeTile {
  const float* rstd;  // of row i at i·heads
  int heads;
  const float *cosine, *sine;  // of row i at i·half
  int half, first, rows;

  __device__ __forceinline__ bool has(int row) const { return row >= first && row < rows; }
};

// Brings what row `row` of the tile needs closer, if there is one.
__device__ __forceinline__ void prefetch(const RopeTile& tile, int row) {
  if (!tile.has(row)) return;
  prefetch_l2(tile.rstd + row * tile.heads);
  prefetch_l2(tile.cosine + row * tile.half);
  prefetch_l2(tile.sine + row * tile.half);
}

// The row of h of this thread's two.
__device__ __forceinline__ int row_of(int h, int warp, int lane) {
  return 16 * warp + 8 * h + lane / 4;
}
// The same; the nearest one that exists for those that do not, whose results go nowhere.
__device__ __forceinline__ int row_of(int h, const RopeTile& tile, int warp, int lane) {
  return max(tile.first, min(row_of(h, warp, lane), tile.rows - 1));
}

// Rᵀ on this thread's part of two rows: the first kBlocks blocks of 8 columns with the next ones.
template <int kBlocks>
__device__ __forceinline__ void rotate_back(float (&x)[32], const RopeTile& tile, int warp,
                                            int lane) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int at = row_of(h, tile, warp, lane) * tile.half + 2 * (lane % 4);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const float2 c = *reinterpret_cast<const float2*>(tile.cosine + at + 8 * block);
      const float2 s = *reinterpret_cast<const float2*>(tile.sine + at + 8 * block);
      const int first = 4 * block + 2 * h, second = first + 4 * kBlocks;
      const float a0 = x[first], a1 = x[first + 1], b0 = x[second], b1 = x[second + 1];
      x[first] = a0 * c.x - b0 * s.x;
      x[first + 1] = a1 * c.y - b1 * s.y;
      x[second] = b0 * c.x + a0 * s.x;
      x[second + 1] = b1 * c.y + a1 * s.y;
    }
  }
}

// dx, this thread's part of two rows: in, the gradient of x_rot without the factor `scale`; out,
// that of what was normed. The tile of x_rot lies in shared memory. The two rows' parts of the
// gain's gradient in of_gain, in each of the four lanes that share a row.
__device__ __forceinline__ void rope_backward(float (&dx)[32], float scale, float gain,
                                              const char* x_rot, const RopeTile& tile, int warp,
                                              int lane, float (&of_gain)[2]) {
  Fragment x;
  load_fragment(shared_address(x_rot), warp, lane, x);
  float dot[2] = {}, of_dx[2], of_x[2];
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 v = unpack_bf16(x[j / 4][j % 4]);
    dot[j % 2] += dx[2 * j] * v.x + dx[2 * j + 1] * v.y;
  }
  const float inverse = gain == 0 ? 0 : 1 / gain;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float rstd = tile.rstd[row_of(h, tile, warp, lane) * tile.heads];
    of_gain[h] = lanes_sum<4>(dot[h]) * (scale * inverse);
    of_dx[h] = rstd * gain * scale;
    of_x[h] = rstd * of_gain[h] / kTile;
    if (!tile.has(row_of(h, warp, lane))) of_gain[h] = 0;
  }
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 v = unpack_bf16(x[j / 4][j % 4]);
    dx[2 * j] = of_dx[j % 2] * dx[2 * j] - of_x[j % 2] * v.x;
    dx[2 * j + 1] = of_dx[j % 2] * dx[2 * j + 1] - of_x[j % 2] * v.y;
  }
  switch (tile.half / 8) {
    case 1:
      return rotate_back<1>(dx, tile, warp, lane);
    case 2:
      return rotate_back<2>(dx, tile, warp, lane);
    case 3:
      return rotate_back<3>(dx, tile, warp, lane);
    default:
      return rotate_back<4>(dx, tile, warp, lane);
  }
}

}  // namespace fairway::cuda::attention_sm90
