// The gradients of keys and values as in attention_backward_keys_sm90.cuh, by blocks that stay: as
// many as multiprocessors, each taking the next tile from a common counter. A warp of its own
// loads, so that the next tile's keys, values and first queries arrive while the last products of
// the previous one run.
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

struct PersistentKeysShared {
  static constexpr int kWarpgroups = 3, kStages = 6;
  struct {
    char k[kWarpgroups][kTileBytes], v[kWarpgroups][kTileBytes];
  } kv[2];
  struct {
    char q[kTileBytes], dy[kTileBytes];
  } stage[kStages];
  RowTerms row_terms[kStages];
  // The tile whose keys are in kv[b] and its key/value head; length 0 = no more work.
  AttentionTile tile[2];
  int head[2];
  uint64_t kv_full[2], kv_empty[2], full[kStages], empty[kStages];

  static constexpr size_t kBytes();
};
constexpr size_t PersistentKeysShared::kBytes() {
  return sizeof(PersistentKeysShared) + 1024;
}

constexpr int kPersistentKeysThreads = (PersistentKeysShared::kWarpgroups + 1) * kWarpgroupThreads;

// q, dy: maps of [T, H·64], k, v: maps of [T, K·64], in boxes of 64 x 64. Tiles of 192 keys.
static __global__ void __launch_bounds__(kPersistentKeysThreads, 1) backward_keys_persistent_kernel(
    const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap dy_map,
    const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,
    const AttentionTiles list, int H, int K, float scale, const RowTerms* row_terms,
    __nv_bfloat16* dk, __nv_bfloat16* dv) {
  using Shared = PersistentKeysShared;
  constexpr int kStages = Shared::kStages, kWarpgroups = Shared::kWarpgroups;
  extern __shared__ char dynamic_shared[];
  const uint32_t misaligned = shared_address(dynamic_shared) & 1023;
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared + ((1024 - misaligned) & 1023));

  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int warpgroup = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroupThreads);
  const int group = H / K;
  if (threadIdx.x == 0) {
    for (int b = 0; b < 2; ++b) {
      mbarrier_init(&shared.kv_full[b], 1);
      mbarrier_init(&shared.kv_empty[b], 4 * kWarpgroups);  // every warp that computes
    }
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&shared.full[s], 1);
      mbarrier_init(&shared.empty[s], 4 * kWarpgroups);
    }
    mbarrier_init_fence();
    fence_async_shared();
  }
  __syncthreads();

  // 3 · 128 · 160 + 128 · 32 = 65,536 registers.
  if (warpgroup == kWarpgroups) {
    registers_decrease<32>();
    if (thread != 0) return;
    const int items = *list.count * K;
    int item = atomicAdd(list.next, 1), s = 0, parity = 1;
    for (int turn = 0;; ++turn) {
      const int b = turn & 1;
      const bool more = item < items;
      AttentionTile tile = {0, 0, 0, 0};
      if (more) tile = list.tiles[item / K];
      const int kv = item % K;
      if (more) item = atomicAdd(list.next, 1);
      mbarrier_wait(&shared.kv_empty[b], (turn >> 1 & 1) ^ 1);
      shared.tile[b] = tile;
      shared.head[b] = kv;
      if (!more) {
        mbarrier_arrive(&shared.kv_full[b]);
        return;
      }
      const int first_tile = tile.index * kWarpgroups;
      const int end_tile = (tile.length + kTile - 1) / kTile;
      mbarrier_arrive_expect(&shared.kv_full[b], 2 * kWarpgroups * kTileBytes);
      for (int w = 0; w < kWarpgroups; ++w) {
        const int row = tile.begin + (first_tile + w) * kTile;
        tma_load_2d(shared.kv[b].k[w], &k_map, &shared.kv_full[b], kv * kTile, row);
        tma_load_2d(shared.kv[b].v[w], &v_map, &shared.kv_full[b], kv * kTile, row);
      }
      for (int head = kv * group; head < (kv + 1) * group; ++head)
        for (int query_tile = first_tile; query_tile < end_tile; ++query_tile) {
          mbarrier_wait(&shared.empty[s], parity);
          const int row = tile.begin + query_tile * kTile;
          const int64_t slot = tile.slot(kTile) + query_tile;
          mbarrier_arrive_expect(&shared.full[s], 2 * kTileBytes + sizeof(RowTerms));
          tma_load_2d(shared.stage[s].q, &q_map, &shared.full[s], head * kTile, row);
          tma_load_2d(shared.stage[s].dy, &dy_map, &shared.full[s], head * kTile, row);
          bulk_load(&shared.row_terms[s], row_terms + slot * H + head, sizeof(RowTerms),
                    &shared.full[s]);
          if (++s == kStages) s = 0, parity ^= 1;
        }
    }
  } else {
    registers_increase<160>();
    const int warp = warp_uniform(thread / 32);
    const int lane = thread % 32;
    const float to_log2 = scale * kLog2e;
    const int64_t stride = static_cast<int64_t>(K) * kTile;
    const auto release = [&](uint64_t* bar) {
      if (lane == 0) mbarrier_arrive(bar);
      __syncwarp();
    };
    int s = 0, parity = 0;
    const auto advance = [&] {
      if (++s == kStages) s = 0, parity ^= 1;
    };
    for (int turn = 0;; ++turn) {
      const int b = turn & 1;
      mbarrier_wait(&shared.kv_full[b], turn >> 1 & 1);
      const int length = warp_uniform(shared.tile[b].length);
      if (length == 0) break;
      const int first_tile = warp_uniform(shared.tile[b].index) * kWarpgroups;
      const int end_tile = (length + kTile - 1) / kTile, own_tile = first_tile + warpgroup;
      const int rows = length - own_tile * kTile;
      const int64_t at =
          (shared.tile[b].begin + own_tile * kTile) * stride + shared.head[b] * kTile;
      if (thread < min(rows, kTile)) prefetch_l2(dv + at + thread * stride);

      float dkey[32], dvalue[32];
#pragma unroll
      for (int j = 0; j < 32; ++j) dkey[j] = dvalue[j] = 0;
      for (int head = 0; head < group; ++head) {
        // These queries see none of this warpgroup's keys.
        for (int query_tile = first_tile; query_tile < min(own_tile, end_tile); ++query_tile) {
          mbarrier_wait(&shared.full[s], parity);
          release(&shared.empty[s]);
          advance();
        }
        int used = -1;
        for (int query_tile = own_tile; query_tile < end_tile; ++query_tile) {
          mbarrier_wait(&shared.full[s], parity);
          key_step(
              dkey, dvalue, shared.kv[b].k[warpgroup], shared.kv[b].v[warpgroup], shared.stage[s].q,
              shared.stage[s].dy, shared.row_terms[s], query_tile == own_tile, to_log2, warp, lane,
              [&] {
                if (used >= 0) release(&shared.empty[used]);
              },
              [] {});
          used = s;
          advance();
        }
        wgmma_wait<0>();
        wgmma_pin(dkey);
        wgmma_pin(dvalue);
        if (used >= 0) release(&shared.empty[used]);
      }
      if (rows > 0)
        store_key_gradients(dkey, dvalue, scale, shared.kv[b].k[warpgroup],
                            shared.kv[b].v[warpgroup], warpgroup, warp, lane, dk + at, dv + at,
                            stride, rows);
      // The copy engine writes next where this thread wrote and read.
      fence_async_shared();
      __syncwarp();
      release(&shared.kv_empty[b]);
    }
  }
}

}  // namespace fairway::cuda::attention_sm90
