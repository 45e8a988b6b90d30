// The gradient of the queries on Hopper, d = 64. A block has two warpgroups of 64 query
// rows, which are shared out as in the forward pass; keys and values stream past in tiles of 64,
// the diagonal tile first.
//   P = exp(scale QKᵀ − lse),   dS = P ∘ (dY Vᵀ − delta),   dQ = scale dS K,
// and where wanted from there to the gradient of what was normed (attention_rope_sm90.cuh). Also
// lays lse and delta out by tiles for the kernel of the keys' gradients.
#pragma once

#include <cuda_bf16.h>

#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/attention_rope_sm90.cuh"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"

namespace fairway::cuda::attention_sm90 {

struct BackwardQueriesShared {
  static constexpr int kStages = 4;
  char q[2][kTileBytes], dy[2][kTileBytes];
  struct {
    char k[kTileBytes], v[kTileBytes];
  } stage[kStages];
  uint64_t q_full, full[kStages], empty[kStages];
  float of_gain[2][4];  // each warp's part of the gain's gradient

  static constexpr size_t kBytes();
};
constexpr size_t BackwardQueriesShared::kBytes() {
  return sizeof(BackwardQueriesShared) + 1024;
}

// q, dy: maps of [Q, H·64], k, v: maps of [T, K·64], in boxes of 64 x 64.
template <bool kPairHeads>
__global__ void __launch_bounds__(2 * kWarpgroupThreads, 2)
    backward_queries_kernel(const __grid_constant__ CUtensorMap q_map,
                            const __grid_constant__ CUtensorMap dy_map,
                            const __grid_constant__ CUtensorMap k_map,
                            const __grid_constant__ CUtensorMap v_map, const AttentionTiles list,
                            int64_t Q, int H, int K, float scale, const float* lse,
                            const float* delta, __nv_bfloat16* dq, RowTerms* row_terms,
                            const AttentionRope rope) {
  constexpr int kStages = BackwardQueriesShared::kStages, kLag = 2;
  constexpr int kHeight = query_tile_rows(kPairHeads);
  extern __shared__ char dynamic_shared[];
  const uint32_t misaligned = shared_address(dynamic_shared) & 1023;
  BackwardQueriesShared& shared =
      *reinterpret_cast<BackwardQueriesShared*>(dynamic_shared + ((1024 - misaligned) & 1023));

  wait_for_earlier_kernels();
  const int blocks_per_tile = kPairHeads ? H / 2 : H;
  const int item = static_cast<int>(blockIdx.x) / blocks_per_tile;
  const AttentionTile tile = list.tiles[item];
  if (tile.length == 0) return;
  const int warpgroup = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroupThreads);
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32 % 4);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head0 = static_cast<int>(blockIdx.x) % blocks_per_tile * (kPairHeads ? 2 : 1);
  const int head = head0 + (kPairHeads ? warpgroup : 0), kv = head0 / (H / K);
  const int row0 = tile.index * kHeight + (kPairHeads ? 0 : kTile * warpgroup);
  const bool loader = threadIdx.x == 0;

  const int count = last_key_tile(tile, kHeight) + 1;
  const int begin = row0 < tile.length ? count - 1 - row0 / kTile : count;

  const auto load = [&](int i) {
    const int s = i % kStages, row = tile.begin + (count - 1 - i) * kTile;
    mbarrier_arrive_expect(&shared.full[s], 2 * kTileBytes);
    tma_load_2d(shared.stage[s].k, &k_map, &shared.full[s], kv * kTile, row);
    tma_load_2d(shared.stage[s].v, &v_map, &shared.full[s], kv * kTile, row);
  };
  if (loader) {
    mbarrier_init(&shared.q_full, 1);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&shared.full[s], 1);
      mbarrier_init(&shared.empty[s], 8);  // every warp
    }
    mbarrier_init_fence();
    fence_async_shared();
    mbarrier_arrive_expect(&shared.q_full, 4 * kTileBytes);
    for (int w = 0; w < 2; ++w) {
      const int column = (head0 + (kPairHeads ? w : 0)) * kTile;
      const int row = tile.query_begin + tile.index * kHeight + (kPairHeads ? 0 : kTile * w);
      tma_load_2d(shared.q[w], &q_map, &shared.q_full, column, row);
      tma_load_2d(shared.dy[w], &dy_map, &shared.q_full, column, row);
    }
    for (int i = 0; i < min(count, kStages); ++i) load(i);
  }
  __syncthreads();

  const auto release = [&](int s) {
    if (lane == 0) mbarrier_arrive(&shared.empty[s]);
    __syncwarp();
  };
  // The warpgroup's rows [first_row, rows) are queries, its row r row query0 + r of their tensors.
  const int rows = tile.length - row0, first_row = max(0, tile.first_query - row0);
  const int64_t query0 = int64_t{tile.query_begin} + row0;
  const int64_t slot = tile.slot(kTile) + row0 / kTile;  // of this warpgroup's 64 rows
  const auto rope_rows = [&] {
    return RopeTile{rope.rstd_q + query0 * H + head,
                    H,
                    rope.q_cosine + query0 * rope.half,
                    rope.q_sine + query0 * rope.half,
                    rope.half,
                    first_row,
                    rows};
  };
  if (rope.cosine != nullptr && warp < 2) prefetch(rope_rows(), 32 * warp + lane);
  // Rows that are no queries get probability zero.
  float row_lse[2], row_delta[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = 16 * warp + 8 * h + lane / 4;
    const int64_t at = head * Q + query0 + row;
    const bool is_query = row >= first_row && row < rows;
    row_lse[h] = is_query ? lse[at] * kLog2e : INFINITY;
    row_delta[h] = is_query ? delta[at] : 0;
  }
  for (int i = 0; i < begin; ++i) {  // tiles that only the other warpgroup sees
    mbarrier_wait(&shared.full[i % kStages], i / kStages & 1);
    __syncwarp();  // every lane has seen this phase
    release(i % kStages);
  }
  if (rows > 0 && lane % 4 == 0) {
    RowTerms& terms = row_terms[slot * H + head];
#pragma unroll
    for (int h = 0; h < 2; ++h) terms.set(16 * warp + 8 * h + lane / 4, row_lse[h], row_delta[h]);
  }
  float dx[32];
#pragma unroll
  for (float& x : dx) x = 0;
  const float to_log2 = scale * kLog2e;
  mbarrier_wait(&shared.q_full, 0);
  int s = begin % kStages, parity = begin / kStages & 1, used = -1;
  for (int i = begin; i < count; ++i) {
    float p[32], ds[32];
    mbarrier_wait(&shared.full[s], parity);
    wgmma_fence();
    multiply_rows(p, wgmma_descriptor_k(shared_address(shared.q[warpgroup])),
                  wgmma_descriptor_k(shared_address(shared.stage[s].k)));
    wgmma_commit();
    wgmma_wait<1>();  // the previous iteration's dx
    wgmma_pin(dx);
    if (used >= 0) release(used);
    wgmma_fence();
    multiply_rows(ds, wgmma_descriptor_k(shared_address(shared.dy[warpgroup])),
                  wgmma_descriptor_k(shared_address(shared.stage[s].v)));
    wgmma_commit();
    if (loader && i >= kLag && i - kLag + kStages < count) {
      const int refill = i - kLag;
      mbarrier_wait(&shared.empty[refill % kStages], refill / kStages & 1);
      load(refill + kStages);
    }
    __syncwarp();
    wgmma_wait<1>();
    wgmma_pin(p);
    if (i == begin) mask_diagonal(p, warp, lane);
#pragma unroll
    for (int j = 0; j < 32; ++j) p[j] = exp2_approx(fmaf(p[j], to_log2, -row_lse[j / 2 % 2]));
    wgmma_wait<0>();
    wgmma_pin(ds);
#pragma unroll
    for (int j = 0; j < 32; ++j) ds[j] = p[j] * (ds[j] - row_delta[j / 2 % 2]);
    Fragment a;
    to_fragment(ds, a);
    pin(a);
    wgmma_fence();
    add_product(dx, a, wgmma_descriptor_mn(shared_address(shared.stage[s].k), kTileBytes));
    wgmma_commit();
    used = s;
    if (++s == kStages) s = 0, parity ^= 1;
  }
  wgmma_wait<0>();
  wgmma_pin(dx);
  if (rows <= 0) return;

  float factor = scale;
  if (rope.cosine != nullptr) {
    float of_gain[2];
    rope_backward(dx, scale, rope.q_gain[head], shared.q[warpgroup], rope_rows(), warp, lane,
                  of_gain);
    factor = 1;
    const float sum = lanes_sum<32>(of_gain[0] + of_gain[1]) / 4;  // four lanes share a row
    if (lane == 0) shared.of_gain[warpgroup][warp] = sum;
  }
  // All four warps are done with the queries in shared memory.
  named_barrier_sync(1 + warpgroup, kWarpgroupThreads);
  if (rope.gain_partials != nullptr && warp == 0 && lane == 0) {
    const float(&of)[4] = shared.of_gain[warpgroup];
    rope.gain_partials[slot * H + head] = of[0] + of[1] + of[2] + of[3];
  }
  const int64_t stride = static_cast<int64_t>(H) * kTile;
  store_rows(dx, factor, shared.q[warpgroup], warp, lane, dq + query0 * stride + head * kTile,
             stride, rows, first_row);
}

}  // namespace fairway::cuda::attention_sm90
