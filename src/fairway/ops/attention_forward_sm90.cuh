// Attention forward on Hopper, d = 64. A block has two warpgroups of 64 query rows each and streams
// the keys and values of one key/value head past them in tiles of 64, the diagonal tile first. With
// kPairHeads the warpgroups are two query heads of that key/value head at the same rows, else two
// neighbouring tiles of rows of one head. Two blocks share a multiprocessor: while one warpgroup
// takes exponentials, the tensor cores serve the other three.
//
// Rows of a tile past the segment's end hold other rows of the buffer or zeros. As keys they are
// causally invisible to the segment's queries; as queries they are not stored.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_query_step.cuh"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"

namespace fairway::cuda::attention_sm90 {

struct ForwardShared {
  static constexpr int kStages = 5;
  char q[2][kTileBytes];
  struct {
    char k[kTileBytes], v[kTileBytes];
  } stage[kStages];
  uint64_t q_full, full[kStages], empty[kStages];

  static constexpr size_t kBytes();  // with room for the alignment to 1,024 bytes
};
constexpr size_t ForwardShared::kBytes() {
  return sizeof(ForwardShared) + 1024;
}

constexpr int forward_tile_height(bool pair_heads) {
  return pair_heads ? kTile : 2 * kTile;
}

// q, k, v: maps of [T, H·64], [T, K·64] in boxes of 64 x 64.
template <bool kPairHeads>
__global__ void __launch_bounds__(2 * kWarpgroupThreads, 2)
    forward_kernel(const __grid_constant__ CUtensorMap q_map,
                   const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, const AttentionTiles list, int64_t T,
                   int H, int K, float scale, __nv_bfloat16* y, float* lse) {
  // A stage is filled again kLag iterations after this block's own use of it, so that the loading
  // warpgroup seldom waits for the other one.
  constexpr int kStages = ForwardShared::kStages, kLag = 2;
  extern __shared__ char dynamic_shared[];
  const uint32_t misaligned = shared_address(dynamic_shared) & 1023;
  ForwardShared& shared =
      *reinterpret_cast<ForwardShared*>(dynamic_shared + ((1024 - misaligned) & 1023));

  const int blocks_per_tile = kPairHeads ? H / 2 : H;
  const int item = static_cast<int>(blockIdx.x) / blocks_per_tile;
  const AttentionTile tile = list.tiles[item];
  if (tile.length == 0) return;
  const int warpgroup = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroupThreads);
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32 % 4);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head0 = static_cast<int>(blockIdx.x) % blocks_per_tile * (kPairHeads ? 2 : 1);
  const int head = head0 + (kPairHeads ? warpgroup : 0), kv = head0 / (H / K);
  const int row0 =
      tile.index * forward_tile_height(kPairHeads) + (kPairHeads ? 0 : kTile * warpgroup);
  const bool loader = threadIdx.x == 0;

  // Iteration i uses the key tile count - 1 - i; this warpgroup begins with its diagonal tile.
  const int last_row = min(tile.length, (tile.index + 1) * forward_tile_height(kPairHeads)) - 1;
  const int count = last_row / kTile + 1;
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
    mbarrier_arrive_expect(&shared.q_full, 2 * kTileBytes);
    for (int w = 0; w < 2; ++w)
      tma_load_2d(
          shared.q[w], &q_map, &shared.q_full, (head0 + (kPairHeads ? w : 0)) * kTile,
          tile.begin + tile.index * forward_tile_height(kPairHeads) + (kPairHeads ? 0 : kTile * w));
    for (int i = 0; i < min(count, kStages); ++i) load(i);
  }
  __syncthreads();

  const auto release = [&](int s) {
    if (lane == 0) mbarrier_arrive(&shared.empty[s]);
    __syncwarp();
  };
  for (int i = 0; i < begin; ++i) {  // tiles that only the other warpgroup sees
    mbarrier_wait(&shared.full[i % kStages], i / kStages & 1);
    release(i % kStages);
  }

  mbarrier_wait(&shared.q_full, 0);
  RunningSoftmax softmax;
  clear(softmax);
  const float to_log2 = scale * kLog2e;
  int s = begin % kStages, parity = begin / kStages & 1, used = -1;
  for (int i = begin; i < count; ++i) {
    mbarrier_wait(&shared.full[s], parity);
    query_step(softmax, shared.q[warpgroup], shared.stage[s].k, shared.stage[s].v, i == begin,
               to_log2, warp, lane, [&] {
                 if (used >= 0) release(used);
                 if (loader && i >= kLag && i - kLag + kStages < count) {
                   const int refill = i - kLag;
                   mbarrier_wait(&shared.empty[refill % kStages], refill / kStages & 1);
                   load(refill + kStages);
                 }
               });
    used = s;
    if (++s == kStages) s = 0, parity ^= 1;
  }
  wgmma_wait<0>();
  wgmma_pin(softmax.out);
  if (row0 >= tile.length) return;
  const int64_t stride = static_cast<int64_t>(H) * kTile, first = tile.begin + row0;
  store_output(softmax, scale, shared.q[warpgroup], 1 + warpgroup, warp, lane,
               y + first * stride + head * kTile, stride, lse + head * T + first,
               tile.length - row0);
}

}  // namespace fairway::cuda::attention_sm90
