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
  // From here on tiles as OperandTiles counts them: 0 and 1, then 2 + 2s and 3 + 2s.
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

__device__ __forceinline__ AttentionTile in_uniform_registers(const AttentionTile& tile) {
  return {uniform_register(tile.begin),       uniform_register(tile.length),
          uniform_register(tile.index),       uniform_register(tile.segment),
          uniform_register(tile.first_query), uniform_register(tile.query_begin)};
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
  const uint32_t base = uniform_register((shared_address(dynamic_shared) + 1023) & ~1023u);
  BackwardKeysShared& shared =
      *reinterpret_cast<BackwardKeysShared*>(__cvta_shared_to_generic(base));

  const int thread = static_cast<int>(threadIdx.x);
  const int warp = warp_uniform(thread / 32), lane = thread % 32;
  const bool loader = thread == 0;
  if (loader) {
    mbarrier_init(&shared.kv_full, 1);
    for (int s = 0; s < kStages; ++s) {
      mbarrier_init(&shared.full[s], 1);
      mbarrier_init(&shared.empty[s], 4);  // every warp
    }
    mbarrier_init_fence();
    fence_async_shared();
  }
  wait_for_earlier_kernels();
  const AttentionTile tile = in_uniform_registers(list.tiles[static_cast<int>(blockIdx.x) / K]);
  if (tile.length == 0) return;
  const int kv = static_cast<int>(blockIdx.x) % K, group = H / K;
  const int row0 = tile.index * kTile, rows = tile.length - row0;
  const int64_t stride = static_cast<int64_t>(K) * kTile;
  const int64_t at = (tile.begin + row0) * stride + kv * kTile;

  // Every query head of the group goes through tiles [first_tile, first_tile + per_head) of
  // queries, the diagonal one first where it holds queries.
  const int first_tile = max(tile.index, tile.first_query / kTile);
  const int per_head = (tile.length + kTile - 1) / kTile - first_tile;
  if (per_head <= 0) return clear_rows(dk + at, stride, rows, warp, lane);
  __syncthreads();

  // Tile and head that are loaded next; counted from the head's last tile, whose number is 1.
  int load_tile = per_head, load_head = kv * group;
  const int end_row = tile.query_begin + (first_tile + per_head) * kTile;
  const int end_slot = tile.slot(kTile) + first_tile + per_head;
  const auto load = [&](int s) {
    const int column = load_head * kTile, row = end_row - load_tile * kTile;
    mbarrier_arrive_expect(&shared.full[s], 2 * kTileBytes + sizeof(RowTerms));
    tma_load_2d(shared.stage[s].q, &q_map, &shared.full[s], column, row);
    tma_load_2d(shared.stage[s].dy, &dy_map, &shared.full[s], column, row);
    bulk_load(&shared.row_terms[s],
              row_terms + (static_cast<int64_t>(end_slot - load_tile) * H + load_head),
              sizeof(RowTerms), &shared.full[s]);
  };
  const auto advance = [&] {
    if (--load_tile == 0) load_tile = per_head, ++load_head;
  };
  int left = group * per_head;  // steps
  if (loader) {
    mbarrier_arrive_expect(&shared.kv_full, 2 * kTileBytes);
    tma_load_2d(shared.k, &k_map, &shared.kv_full, kv * kTile, tile.begin + row0);
    tma_load_2d(shared.v, &v_map, &shared.kv_full, kv * kTile, tile.begin + row0);
  }
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (loader && i < left) load(i);
    advance();
  }

  float dkey[32], dvalue[32];
#pragma unroll
  for (int j = 0; j < 32; ++j) dkey[j] = dvalue[j] = 0;
  const float to_log2 = scale * kLog2e;
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
  const OperandTiles tiles(base);
  mbarrier_wait(&shared.kv_full, 0);
  // Every step hands back the stage of the one before it, the first one that which is still empty.
  // So both barriers of a round of the stages have the round's parity.
  int s = 0, previous = kStages - 1, parity = 0;
  int to_diagonal = first_tile == tile.index ? 0 : left;  // steps
  do {
    mbarrier_wait(&shared.full[s], parity);
    key_step(
        dkey, dvalue, tiles, 2 + 2 * s, shared.row_terms[s], to_diagonal == 0, to_log2, warp, lane,
        [&] {
          if (lane == 0) mbarrier_arrive(&shared.empty[previous]);
          __syncwarp();
        },
        [&] {
          if (loader && left >= kStages) {
            mbarrier_wait(&shared.empty[previous], parity);
            load(previous);
          }
          advance();
        });
    if (to_diagonal == 0) to_diagonal = per_head;
    --to_diagonal;
    previous = s;
    if (++s == kStages) s = 0, parity ^= 1;
  } while (--left > 0);
  // Under way while the last product runs.
  const RowPieces dv_before = load_rows(dv + at, stride, rows, warp, lane);
  wgmma_wait<0>();
  wgmma_pin(dkey);
  wgmma_pin(dvalue);

  float factor = scale;
  if (rope.cosine != nullptr) {
    float of_gain[2];  // k has none
    rope_backward(dkey, scale, 1, shared.k, rope_rows(), warp, lane, of_gain);
    factor = 1;
  }
  store_key_gradients(dkey, dvalue, dv_before, factor, shared.k, shared.v, warp, lane, dk + at,
                      dv + at, stride, rows);
}

}  // namespace fairway::cuda::attention_sm90
