// Attention's gradients on mma.sync, in two kernels: that of the queries has 64 queries of one head
// in a block and streams keys and values past them, that of the keys 64 keys of one key/value head
// and streams the queries of all heads that read it, so that nothing needs atomics.
#pragma once

#include "fairway/ops/attention_exp2.cuh"
#include "fairway/ops/attention_mma.cuh"
#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda::attention_mma {

// What bounds the shared memory is 99 KB, all that a block gets on GPUs of compute capability 8.6.
template <int kD>
struct BackwardShared {
  static constexpr int kStages = kD > 64 ? 1 : 2;
  Tile<kD> own[2];             // queries and dy, or keys and values
  Tile<kD> stage[kStages][2];  // the other two
  float lse_log2[kStages][kTile], delta[kStages][kTile];
};

template <int kD>
__global__ void __launch_bounds__(kThreads)
    backward_queries_kernel(const AttentionTiles list, int64_t Q, int H, int K, float scale,
                            const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                            const float* lse, const __nv_bfloat16* dy, const float* delta,
                            __nv_bfloat16* dq) {
  using Shared = BackwardShared<kD>;
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

  load_tile(shared.own[0], q + q_at, q_stride, rows, first_row);
  load_tile(shared.own[1], dy + q_at, q_stride, rows, first_row);
  // Rows that are no queries get probability zero.
  float row_lse[2], row_delta[2], dx[kD / 8][4] = {};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row_of(warp, lane, 2 * h);
    const bool is_query = row >= first_row && row < rows;
    row_lse[h] = is_query ? lse[head * Q + first + row] * kLog2e : INFINITY;
    row_delta[h] = is_query ? delta[head * Q + first + row] : 0;
  }
  const auto load = [&](int i, int stage) {
    const int key0 = (tile.index - i) * kTile;
    const int64_t at = (static_cast<int64_t>(tile.begin + key0) * K + kv) * kD;
    load_tile(shared.stage[stage][0], k + at, kv_stride, tile.length - key0);
    load_tile(shared.stage[stage][1], v + at, kv_stride, tile.length - key0);
  };
  pipelined<Shared::kStages>(tile.index + 1, load, [&](int i, int stage) {
    float p[kTile / 8][4], ds[kTile / 8][4];
    multiply_rows<kD, kTile>(p, shared.own[0], shared.stage[stage][0], 0, warp, lane);
    multiply_rows<kD, kTile>(ds, shared.own[1], shared.stage[stage][1], 0, warp, lane);
#pragma unroll
    for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float x = exp2_approx(fmaf(p[j][e], to_log2, -row_lse[e / 2]));
        if (i == 0 && column_of(lane, j, e) > row_of(warp, lane, e)) x = 0;
        ds[j][e] = x * (ds[j][e] - row_delta[e / 2]);
      }
    Fragment<kTile> a;
    to_fragment<kTile>(ds, a);
    add_product<kTile, kD>(dx, a, shared.stage[stage][0], 0, lane);
  });
  store_rows(dx, scale, shared.own[0], warp, lane, dq + q_at, q_stride, rows, first_row);
}

// The keys are the products' rows: Pᵀ and dSᵀ go from the accumulators into the next product.
template <int kD>
__global__ void __launch_bounds__(kThreads)
    backward_keys_kernel(const AttentionTiles list, int64_t Q, int H, int K, float scale,
                         const __nv_bfloat16* q, const __nv_bfloat16* k, const __nv_bfloat16* v,
                         const float* lse, const __nv_bfloat16* dy, const float* delta,
                         __nv_bfloat16* dk, __nv_bfloat16* dv) {
  using Shared = BackwardShared<kD>;
  // Queries at a time: their scores share the registers with two sums of kD columns.
  constexpr int kChunk = kD > 64 ? 32 : kTile;
  extern __shared__ __align__(16) char dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
  const AttentionTile tile = list.tiles[static_cast<int>(blockIdx.x) / K];
  if (tile.length == 0) return;
  const int kv = static_cast<int>(blockIdx.x) % K, group = H / K;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row0 = tile.index * kTile, rows = tile.length - row0;
  const int64_t kv_at = (static_cast<int64_t>(tile.begin + row0) * K + kv) * kD;
  const int64_t q_stride = static_cast<int64_t>(H) * kD, kv_stride = static_cast<int64_t>(K) * kD;
  const float to_log2 = scale * kLog2e;

  // Step i takes tile first_tile + i % per_head of query head i / per_head, the diagonal one first
  // where it holds queries.
  const int first_tile = max(tile.index, tile.first_query / kTile);
  const int per_head = max(0, (tile.length + kTile - 1) / kTile - first_tile);
  float dkey[kD / 8][4] = {}, dvalue[kD / 8][4] = {};
  if (per_head > 0) {
    load_tile(shared.own[0], k + kv_at, kv_stride, rows);
    load_tile(shared.own[1], v + kv_at, kv_stride, rows);
  }
  const bool sees_diagonal = first_tile == tile.index;
  const int length = tile.length - first_tile * kTile;
  const int first_query = tile.first_query - first_tile * kTile;
  const int query_begin = tile.query_begin + first_tile * kTile;
  const auto load = [&](int i, int stage) {
    const int head = kv * group + i / per_head, query0 = i % per_head * kTile;
    const int left = length - query0, first_row = max(0, first_query - query0);
    const int64_t first = query_begin + query0, at = (first * H + head) * kD;
    load_tile(shared.stage[stage][0], q + at, q_stride, left, first_row);
    load_tile(shared.stage[stage][1], dy + at, q_stride, left, first_row);
    const int row = static_cast<int>(threadIdx.x);
    if (row < kTile) {  // rows that are no queries get probability zero
      const bool is_query = row >= first_row && row < left;
      shared.lse_log2[stage][row] = is_query ? lse[head * Q + first + row] * kLog2e : INFINITY;
      shared.delta[stage][row] = is_query ? delta[head * Q + first + row] : 0;
    }
  };
  pipelined<Shared::kStages>(group * per_head, load, [&](int i, int stage) {
    const bool diagonal = sees_diagonal && i % per_head == 0;
    const Tile<kD>&queries = shared.stage[stage][0], &dys = shared.stage[stage][1];
#pragma unroll 1
    for (int first = 0; first < kTile; first += kChunk) {
      float p[kChunk / 8][4], ds[kChunk / 8][4];
      multiply_rows<kD, kChunk>(p, shared.own[0], queries, first, warp, lane);
      multiply_rows<kD, kChunk>(ds, shared.own[1], dys, first, warp, lane);
#pragma unroll
      for (int j = 0; j < kChunk / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = first + column_of(lane, j, e);
          float x = exp2_approx(fmaf(p[j][e], to_log2, -shared.lse_log2[stage][column]));
          if (diagonal && column < row_of(warp, lane, e)) x = 0;
          p[j][e] = x;
          ds[j][e] = x * (ds[j][e] - shared.delta[stage][column]);
        }
      Fragment<kChunk> a;
      to_fragment<kChunk>(p, a);
      add_product<kChunk, kD>(dvalue, a, dys, first, lane);
      to_fragment<kChunk>(ds, a);
      add_product<kChunk, kD>(dkey, a, queries, first, lane);
    }
  });
  store_rows(dkey, scale, shared.own[0], warp, lane, dk + kv_at, kv_stride, rows);
  add_rows(dvalue, shared.own[1], warp, lane, dv + kv_at, kv_stride, rows);
  store_rows(dvalue, 1.f, shared.own[1], warp, lane, dv + kv_at, kv_stride, rows);
}

}  // namespace fairway::cuda::attention_mma
