// Attention forward on mma.sync. A block has 64 queries of one head and streams keys and values
// past them in tiles of 64, the diagonal tile first.
#pragma once

#include "fairway/ops/attention_exp2.cuh"
#include "fairway/ops/attention_mma.cuh"
#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda::attention_mma {

template <int kD>
struct ForwardShared {
  static constexpr int kStages = 2;
  Tile<kD> q;
  struct {
    Tile<kD> k, v;
  } stage[kStages];
};

template <int kD>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const AttentionTiles list, int64_t Q, int H, int K, float scale,
                   const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                   __nv_bfloat16* y, float* lse) {
  using Shared = ForwardShared<kD>;
  extern __shared__ __align__(16) char dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
  const AttentionTile tile = list.tiles[static_cast<int>(blockIdx.x) / H];
  if (tile.length == 0) return;
  const int head = static_cast<int>(blockIdx.x) % H, kv = head / (H / K);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  // The tile's rows [first_row, rows) are queries.
  const int row0 = tile.index * kTile, rows = tile.length - row0;
  const int first_row = max(0, tile.first_query - row0);
  const int64_t first = int64_t{tile.query_begin} + row0, q_at = (first * H + head) * kD;
  const int64_t q_stride = static_cast<int64_t>(H) * kD, kv_stride = static_cast<int64_t>(K) * kD;
  const float to_log2 = scale * kLog2e;

  float out[kD / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  load_tile(shared.q, q + q_at, q_stride, rows, first_row);
  const auto load = [&](int i, int stage) {
    const int key0 = (tile.index - i) * kTile;
    const int64_t at = (static_cast<int64_t>(tile.begin + key0) * K + kv) * kD;
    load_tile(shared.stage[stage].k, k + at, kv_stride, tile.length - key0);
    load_tile(shared.stage[stage].v, v + at, kv_stride, tile.length - key0);
  };
  pipelined<Shared::kStages>(tile.index + 1, load, [&](int i, int stage) {
    float score[kTile / 8][4];
    multiply_rows<kD, kTile>(score, shared.q, shared.stage[stage].k, 0, warp, lane);
    if (i == 0) {
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (column_of(lane, j, e) > row_of(warp, lane, e)) score[j][e] = -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float new_max = max[h];
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j)
        new_max = fmaxf(new_max, fmaxf(score[j][2 * h], score[j][2 * h + 1]));
      new_max = fmaxf(new_max, __shfl_xor_sync(0xFFFFFFFFu, new_max, 1));
      new_max = fmaxf(new_max, __shfl_xor_sync(0xFFFFFFFFu, new_max, 2));
      // Finite: every row sees its own key in the first tile.
      const float shrink = exp2_approx((max[h] - new_max) * to_log2), shift = new_max * to_log2;
      max[h] = new_max;
      sum[h] *= shrink;
#pragma unroll
      for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = score[j][2 * h + e];
          x = exp2_approx(fmaf(x, to_log2, -shift));
          sum[h] += x;
        }
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) {
        out[j][2 * h] *= shrink;
        out[j][2 * h + 1] *= shrink;
      }
    }
    Fragment<kTile> p;
    to_fragment<kTile>(score, p);
    add_product<kTile, kD>(out, p, shared.stage[stage].v, 0, lane);
  });

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 2);
    const int row = row_of(warp, lane, 2 * h);
    if (lane % 4 == 0 && row >= first_row && row < rows)
      lse[head * Q + first + row] = fmaf(max[h], scale, logf(sum[h]));
    const float inverse = 1 / sum[h];
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) {
      out[j][2 * h] *= inverse;
      out[j][2 * h + 1] *= inverse;
    }
  }
  store_rows(out, 1.f, shared.q, warp, lane, y + q_at, q_stride, rows, first_row);
}

}  // namespace fairway::cuda::attention_mma
