// The gradients of keys and values on Hopper, d = 64. A block has kWarpgroups warpgroups with 64
// keys each, and streams the queries and output gradients of every query head of the key/value head
// past them in tiles of 64. Products have the keys as rows, so that Pᵀ and dSᵀ go from the
// accumulators straight into the next product:
//   Pᵀ = exp(scale KQᵀ − lse),   dSᵀ = Pᵀ ∘ (V dYᵀ − delta),   dV += Pᵀ dY,   dK = scale dSᵀ Q.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_key_step.cuh"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/sm90/bulk_copy.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/prefetch.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"

namespace fairway::cuda::attention_sm90 {

template <int kWarpgroups>
struct BackwardKeysShared {
  static constexpr int kStages = kWarpgroups == 1 ? 3 : 6;
  char k[kWarpgroups][kTileBytes], v[kWarpgroups][kTileBytes];
  struct {
    char q[kTileBytes], dy[kTileBytes];
  } stage[kStages];
  RowTerms row_terms[kStages];
  uint64_t kv_full, full[kStages], empty[kStages];

  static constexpr size_t kBytes() {  // with room for the alignment to 1,024 bytes
    return sizeof(BackwardKeysShared) + 1024;
  }
};

// q, dy: maps of [T, H·64], k, v: maps of [T, K·64], in boxes of 64 x 64. Tiles of kWarpgroups·64.
template <int kWarpgroups>
__global__ void __launch_bounds__(kWarpgroups* kWarpgroupThreads, 3 / kWarpgroups)
    backward_keys_kernel(const __grid_constant__ CUtensorMap q_map,
                         const __grid_constant__ CUtensorMap dy_map,
                         const __grid_constant__ CUtensorMap k_map,
                         const __grid_constant__ CUtensorMap v_map, const AttentionTiles list,
                         int H, int K, float scale, const RowTerms* row_terms, __nv_bfloat16* dk,
                         __nv_bfloat16* dv) {
  using Shared = BackwardKeysShared<kWarpgroups>;
  constexpr int kStages = Shared::kStages, kLag = kStages > 4 ? 2 : 1;
  extern __shared__ char dynamic_shared[];
  const uint32_t misaligned = shared_address(dynamic_shared) & 1023;
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared + ((1024 - misaligned) & 1023));

  const int item = static_cast<int>(blockIdx.x) / K;
  const AttentionTile tile = list.tiles[item];
  if (tile.length == 0) return;
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int warpgroup = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroupThreads);
  const int warp = warp_uniform(thread / 32);
  const int lane = thread % 32;
  const int kv = static_cast<int>(blockIdx.x) % K, group = H / K;
  const bool loader = threadIdx.x == 0;

  // Query tiles [first_tile, end_tile) of each head; this warpgroup begins with its diagonal tile.
  const int first_tile = tile.index * kWarpgroups, end_tile = (tile.length + kTile - 1) / kTile;
  const int per_head = end_tile - first_tile, count = group * per_head;
  const int own_tile = first_tile + warpgroup, row0 = own_tile * kTile;

  const auto load = [&](int i) {
    const int s = i % kStages, query_tile = first_tile + i % per_head;
    const int head = kv * group + i / per_head, row = tile.begin + query_tile * kTile;
    mbarrier_arrive_expect(&shared.full[s], 2 * kTileBytes + sizeof(RowTerms));
    tma_load_2d(shared.stage[s].q, &q_map, &shared.full[s], head * kTile, row);
    tma_load_2d(shared.stage[s].dy, &dy_map, &shared.full[s], head * kTile, row);
    const int64_t slot = tile.slot(kTile) + query_tile;
    bulk_load(&shared.row_terms[s], row_terms + slot * H + head, sizeof(RowTerms), &shared.full[s]);
  };
  if (loader) {
    mbarrier_init(&shared.kv_full, 1);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&shared.full[s], 1);
      mbarrier_init(&shared.empty[s], 4 * kWarpgroups);  // every warp
    }
    mbarrier_init_fence();
    fence_async_shared();
    mbarrier_arrive_expect(&shared.kv_full, 2 * kWarpgroups * kTileBytes);
    for (int w = 0; w < kWarpgroups; ++w) {
      const int row = tile.begin + (first_tile + w) * kTile;
      tma_load_2d(shared.k[w], &k_map, &shared.kv_full, kv * kTile, row);
      tma_load_2d(shared.v[w], &v_map, &shared.kv_full, kv * kTile, row);
    }
    for (int i = 0; i < min(count, kStages); ++i) load(i);
  }
  __syncthreads();

  const auto release = [&](int s) {
    if (lane == 0) mbarrier_arrive(&shared.empty[s]);
    __syncwarp();
  };
  float dkey[32], dvalue[32];
#pragma unroll
  for (int j = 0; j < 32; ++j) dkey[j] = dvalue[j] = 0;
  const float to_log2 = scale * kLog2e;
  const int rows = tile.length - row0;
  const int64_t stride = static_cast<int64_t>(K) * kTile;
  const int64_t at = (tile.begin + row0) * stride + kv * kTile;
  if (thread < min(rows, kTile)) prefetch_l2(dv + at + thread * stride);
  int i = 0, s = 0, parity = 0;
  const auto advance = [&] {
    ++i;
    if (++s == kStages) s = 0, parity ^= 1;
  };
  mbarrier_wait(&shared.kv_full, 0);
  for (int head = 0; head < group; ++head) {
    // These queries see none of this warpgroup's keys.
    for (int query_tile = first_tile; query_tile < min(own_tile, end_tile); ++query_tile) {
      mbarrier_wait(&shared.full[s], parity);
      release(s);
      advance();
    }
    int used = -1;
    for (int query_tile = own_tile; query_tile < end_tile; ++query_tile) {
      mbarrier_wait(&shared.full[s], parity);
      key_step(
          dkey, dvalue, shared.k[warpgroup], shared.v[warpgroup], shared.stage[s].q,
          shared.stage[s].dy, shared.row_terms[s], query_tile == own_tile, to_log2, warp, lane,
          [&] {
            if (used >= 0) release(used);
          },
          [&] {
            if (loader && i >= kLag && i - kLag + kStages < count) {
              const int refill = i - kLag;
              mbarrier_wait(&shared.empty[refill % kStages], refill / kStages & 1);
              load(refill + kStages);
            }
          });
      used = s;
      advance();
    }
    wgmma_wait<0>();
    wgmma_pin(dkey);
    wgmma_pin(dvalue);
    if (used >= 0) release(used);
  }
  if (rows <= 0) return;
  store_key_gradients(dkey, dvalue, scale, shared.k[warpgroup], shared.v[warpgroup], warpgroup,
                      warp, lane, dk + at, dv + at, stride, rows);
}

}  // namespace fairway::cuda::attention_sm90
