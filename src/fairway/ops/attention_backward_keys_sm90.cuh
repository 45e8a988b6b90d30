// The gradients of keys and values on Hopper, d = 64. A block is one warpgroup with 64 keys; the
// queries and output gradients of every query head of the key/value head stream past them in tiles
// of 64. Three blocks share a multiprocessor, each at its own point of the loop. Products have the
// keys as rows, so that Pᵀ and dSᵀ go from the accumulators straight into the next product:
//   Pᵀ = exp(scale KQᵀ − lse),   dSᵀ = Pᵀ ∘ (V dYᵀ − delta),   dV += Pᵀ dY,   dK = scale dSᵀ Q,
// and where wanted from dK to the gradient of what was normed (attention_rope_sm90.cuh).
#pragma once

#include <cuda_bf16.h>

#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/attention_key_step.cuh"
#include "fairway/ops/attention_rope_sm90.cuh"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/sm90/bulk_copy.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/prefetch.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"

namespace fairway::cuda::attention_sm90 {

struct BackwardKeysShared {
  static constexpr int kStages = 3;
  char k[kTileBytes], v[kTileBytes];
  struct {
    char q[kTileBytes], dy[kTileBytes];
  } stage[kStages];
  RowTerms row_terms[kStages];
  uint64_t kv_full, full[kStages], empty[kStages];

  static constexpr size_t kBytes();  // with room for the alignment to 1,024 bytes
};
constexpr size_t BackwardKeysShared::kBytes() {
  return sizeof(BackwardKeysShared) + 1024;
}

// q, dy: maps of [Q, H·64], k, v: maps of [T, K·64], in boxes of 64 x 64. Tiles of 64 keys.
static __global__ void __launch_bounds__(kWarpgroupThreads, 3)
    backward_keys_kernel(const __grid_constant__ CUtensorMap q_map,
                         const __grid_constant__ CUtensorMap dy_map,
                         const __grid_constant__ CUtensorMap k_map,
                         const __grid_constant__ CUtensorMap v_map, const AttentionTiles list,
                         int H, int K, float scale, const RowTerms* row_terms, __nv_bfloat16* dk,
                         __nv_bfloat16* dv, const AttentionRope rope) {
  constexpr int kStages = BackwardKeysShared::kStages;
  extern __shared__ char dynamic_shared[];
  const uint32_t misaligned = shared_address(dynamic_shared) & 1023;
  BackwardKeysShared& shared =
      *reinterpret_cast<BackwardKeysShared*>(dynamic_shared + ((1024 - misaligned) & 1023));

  wait_for_earlier_kernels();
  const AttentionTile tile = list.tiles[static_cast<int>(blockIdx.x) / K];
  if (tile.length == 0) return;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = warp_uniform(thread / 32), lane = thread % 32;
  const int kv = static_cast<int>(blockIdx.x) % K, group = H / K;
  const bool loader = thread == 0;

  // Step i takes tile first_tile + i % per_head of query head i / per_head, the diagonal one first
  // where it holds queries.
  const int first_tile = max(tile.index, tile.first_query / kTile);
  const int per_head = max(0, (tile.length + kTile - 1) / kTile - first_tile);
  const int count = group * per_head;
  const auto load = [&](int i) {
    const int s = i % kStages, query_tile = first_tile + i % per_head;
    const int head = kv * group + i / per_head, row = tile.query_begin + query_tile * kTile;
    mbarrier_arrive_expect(&shared.full[s], 2 * kTileBytes + sizeof(RowTerms));
    tma_load_2d(shared.stage[s].q, &q_map, &shared.full[s], head * kTile, row);
    tma_load_2d(shared.stage[s].dy, &dy_map, &shared.full[s], head * kTile, row);
    const int64_t slot = tile.slot(kTile) + query_tile;
    bulk_load(&shared.row_terms[s], row_terms + slot * H + head, sizeof(RowTerms), &shared.full[s]);
  };
  const int row0 = tile.index * kTile, rows = tile.length - row0;
  if (loader) {
    mbarrier_init(&shared.kv_full, 1);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&shared.full[s], 1);
      mbarrier_init(&shared.empty[s], 4);  // every warp
    }
    mbarrier_init_fence();
    fence_async_shared();
    mbarrier_arrive_expect(&shared.kv_full, 2 * kTileBytes);
    tma_load_2d(shared.k, &k_map, &shared.kv_full, kv * kTile, tile.begin + row0);
    tma_load_2d(shared.v, &v_map, &shared.kv_full, kv * kTile, tile.begin + row0);
    for (int i = 0; i < min(count, kStages); ++i) load(i);
  }
  __syncthreads();

  float dkey[32], dvalue[32];
#pragma unroll
  for (int j = 0; j < 32; ++j) dkey[j] = dvalue[j] = 0;
  const float to_log2 = scale * kLog2e;
  const int64_t stride = static_cast<int64_t>(K) * kTile;
  const int64_t at = (tile.begin + row0) * stride + kv * kTile;
  if (thread < min(rows, kTile)) prefetch_l2(dv + at + thread * stride);
  const auto rope_rows = [&] {
    const int64_t first = int64_t{tile.begin} + row0;
    return RopeTile{rope.rstd_k + first * K + kv,
                    K,
                    rope.cosine + first * rope.half,
                    rope.sine + first * rope.half,
                    rope.half,
                    0,
                    rows};
  };
  if (rope.cosine != nullptr && thread < kTile) prefetch(rope_rows(), thread);
  const auto release = [&](int stage) {
    if (lane == 0) mbarrier_arrive(&shared.empty[stage]);
    __syncwarp();
  };
  mbarrier_wait(&shared.kv_full, 0);
  int i = 0, s = 0, parity = 0;
  for (int head = 0; head < group; ++head) {
    int used = -1;
    for (int left = per_head; left > 0; --left) {
      mbarrier_wait(&shared.full[s], parity);
      key_step(
          dkey, dvalue, shared.k, shared.v, shared.stage[s].q, shared.stage[s].dy,
          shared.row_terms[s], first_tile == tile.index && left == per_head, to_log2, warp, lane,
          [&] {
            if (used >= 0) release(used);
          },
          [&] {  // the stage of the previous step is filled again
            if (loader && i > 0 && i - 1 + kStages < count) {
              mbarrier_wait(&shared.empty[(i - 1) % kStages], (i - 1) / kStages & 1);
              load(i - 1 + kStages);
            }
          });
      used = s;
      ++i;
      if (++s == kStages) s = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    wgmma_pin(dkey);
    wgmma_pin(dvalue);
    if (used >= 0) release(used);
  }
  float factor = scale;
  if (rope.cosine != nullptr) {
    float of_gain[2];  // k has none
    rope_backward(dkey, scale, 1, shared.k, rope_rows(), warp, lane, of_gain);
    factor = 1;
  }
  store_key_gradients(dkey, dvalue, factor, shared.k, shared.v, warp, lane, dk + at, dv + at,
                      stride, rows);
}

}  // namespace fairway::cuda::attention_sm90
