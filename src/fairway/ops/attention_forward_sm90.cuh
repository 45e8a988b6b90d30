// Attention forward on Hopper, d = 64, by blocks that stay: one per multiprocessor, each with two
// teams of two warpgroups that take the next tile from a common counter. A team streams the keys
// and values of one key/value head past its queries in tiles of 64, the diagonal tile first. With
// kPairHeads its warpgroups are two query heads of that key/value head at the same rows, else two
// neighbouring tiles of rows of one head. While one warpgroup takes exponentials, the tensor cores
// serve the other three. A warp per team loads, so that the next tile's queries and first keys
// arrive while the last products of the previous one run.
//
// Rows of a tile past the segment's end, and of queries those before the first, hold other rows of
// the buffer or zeros. As keys they are causally invisible to the segment's queries; as queries
// they are not stored.
#pragma once

#include <cuda_bf16.h>

#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/attention_query_step.cuh"
#include "fairway/ops/attention_tiles.cuh"
#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"

namespace fairway::cuda::attention_sm90 {

template <bool kPairHeads>
struct ForwardTeam {
  // Two heads share their rows' own values, which exclusive attention wants at the end.
  static constexpr int kStages = kPairHeads ? 4 : 3, kOwn = kPairHeads ? 1 : 2;
  char q[2][2][kTileBytes];  // [turn % 2][warpgroup]
  char own_v[2][kOwn][kTileBytes];
  struct {
    char k[kTileBytes], v[kTileBytes];
  } stage[kStages];
};
template <bool kPairHeads>
struct ForwardShared {
  using Team = ForwardTeam<kPairHeads>;
  static constexpr int kTeams = 2;
  Team team[kTeams];
  struct {
    // The tile whose queries are in q[b] and its first head; length 0 = no more work.
    AttentionTile tile[2];
    int head[2];
    bool bounded[2];  // no score of these heads exceeds kMostScore
    uint64_t q_full[2], q_empty[2], full[Team::kStages], empty[Team::kStages];
  } state[kTeams];

  static constexpr size_t kBytes() {  // with room for the alignment to 1,024 bytes
    return sizeof(ForwardShared) + 1024;
  }
};

// Whether |q·k| scale <= |q_gain| √d · √d scale is small enough, for `heads` heads from `head` on.
__device__ __forceinline__ bool scores_bounded(const float* q_gain, int head, int heads,
                                               float scale) {
  if (q_gain == nullptr) return false;
  float most = fabsf(q_gain[head]);
  if (heads == 2) most = fmaxf(most, fabsf(q_gain[head + 1]));
  return most * (kTile * scale) <= kMostScore;
}

constexpr int kForwardThreads = 5 * kWarpgroupThreads;

// q: a map of [Q, H·64], k, v: of [T, K·64], in boxes of 64 x 64. Tiles of
// query_tile_rows(kPairHeads). With y_dot_v the output is exclusive attention's. q_gain as in
// attention_varlen.h, or null.
template <bool kPairHeads>
__global__ void __launch_bounds__(kForwardThreads, 1)
    forward_kernel(const __grid_constant__ CUtensorMap q_map,
                   const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, const AttentionTiles list, int64_t Q,
                   int H, int K, float scale, const float* q_gain, __nv_bfloat16* y, float* lse,
                   float* y_dot_v) {
  using Shared = ForwardShared<kPairHeads>;
  using Team = typename Shared::Team;
  constexpr int kStages = Team::kStages, kTeams = Shared::kTeams;
  constexpr int kHeight = query_tile_rows(kPairHeads), kHeads = kPairHeads ? 2 : 1;
  extern __shared__ char dynamic_shared[];
  const uint32_t misaligned = shared_address(dynamic_shared) & 1023;
  Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared + ((1024 - misaligned) & 1023));

  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int warpgroup = warp_uniform(static_cast<int>(threadIdx.x) / kWarpgroupThreads);
  const int warp = warp_uniform(thread / 32), lane = thread % 32;
  if (threadIdx.x == 0) {
    for (auto& state : shared.state) {
      for (int b = 0; b < 2; ++b) {
        mbarrier_init(&state.q_full[b], 1);
        mbarrier_init(&state.q_empty[b], 8);  // every warp of the team
      }
      for (int s = 0; s < kStages; ++s) {
        mbarrier_init(&state.full[s], 1);
        mbarrier_init(&state.empty[s], 8);
      }
    }
    mbarrier_init_fence();
    fence_async_shared();
  }
  __syncthreads();
  wait_for_earlier_kernels();

  // Of 640 threads with 96 registers: 4 · 128 · 112 + 128 · 32 <= 61,440.
  if (warpgroup == 2 * kTeams) {
    registers_decrease<32>();
    if (warp >= kTeams || lane != 0) return;
    Team& team = shared.team[warp];
    auto& state = shared.state[warp];
    const int per_tile = H / kHeads, items = *list.count * per_tile;
    // Every team takes one number past the last item; the last of these ends the list's use.
    const int last = items + static_cast<int>(gridDim.x) * kTeams - 1;
    int item = atomicAdd(list.next, 1), s = 0, parity = 1;
    for (int turn = 0;; ++turn) {
      const int b = turn & 1;
      const bool more = item < items;
      if (item == last) *list.next = 0;
      // Read again where it is needed: of 32 registers it would take six.
      const AttentionTile& tile = list.tiles[more ? item / per_tile : 0];
      int key_tile = more ? last_key_tile(tile, kHeight) : 0;
      const int head = item % per_tile * kHeads, kv = head / (H / K);
      const bool bounded = scores_bounded(q_gain, head, kHeads, scale);
      if (more) item = atomicAdd(list.next, 1);
      mbarrier_wait(&state.q_empty[b], (turn >> 1 & 1) ^ 1);
      state.tile[b] = tile;
      state.head[b] = head;
      state.bounded[b] = bounded;
      if (!more) {
        state.tile[b].length = 0;
        mbarrier_arrive(&state.q_full[b]);
        return;
      }
      const int row0 = tile.index * kHeight;
      mbarrier_arrive_expect(&state.q_full[b], (y_dot_v ? 2 + Team::kOwn : 2) * kTileBytes);
      for (int w = 0; w < 2; ++w)
        tma_load_2d(team.q[b][w], &q_map, &state.q_full[b], (head + (kPairHeads ? w : 0)) * kTile,
                    tile.query_begin + row0 + (kPairHeads ? 0 : w * kTile));
      if (y_dot_v)
        for (int w = 0; w < Team::kOwn; ++w)
          tma_load_2d(team.own_v[b][w], &v_map, &state.q_full[b], kv * kTile,
                      tile.begin + row0 + w * kTile);
      const int begin = tile.begin;
      for (; key_tile >= 0; --key_tile) {
        mbarrier_wait(&state.empty[s], parity);
        const int row = begin + key_tile * kTile;
        mbarrier_arrive_expect(&state.full[s], 2 * kTileBytes);
        tma_load_2d(team.stage[s].k, &k_map, &state.full[s], kv * kTile, row);
        tma_load_2d(team.stage[s].v, &v_map, &state.full[s], kv * kTile, row);
        if (++s == kStages) s = 0, parity ^= 1;
      }
    }
  } else {
    registers_increase<112>();
    Team& team = shared.team[warpgroup / 2];
    auto& state = shared.state[warpgroup / 2];
    const int member = warpgroup % 2;
    const float to_log2 = scale * kLog2e;
    const auto release = [&](uint64_t* bar) {
      if (lane == 0) mbarrier_arrive(bar);
      __syncwarp();
    };
    const TileDescriptors queries(wgmma_descriptor_k(shared_address(team.q[0][member])),
                                  sizeof(team.q[0]));
    const TileDescriptors keys(wgmma_descriptor_k(shared_address(team.stage[0].k)),
                               sizeof(team.stage[0]));
    const TileDescriptors values(wgmma_descriptor_mn(shared_address(team.stage[0].v), kTileBytes),
                                 sizeof(team.stage[0]));
    int s = 0, parity = 0;
    for (int turn = 0;; ++turn) {
      const int b = turn & 1;
      mbarrier_wait(&state.q_full[b], turn >> 1 & 1);
      const int length = warp_uniform(state.tile[b].length);
      if (length == 0) break;
      const int index = warp_uniform(state.tile[b].index);
      const int own_tile = kPairHeads ? index : 2 * index + member, row0 = own_tile * kTile;
      int key_tile = own_tile;
      if constexpr (!kPairHeads) {  // the tiles that only the other warpgroup sees
        key_tile = last_key_tile(state.tile[b], kHeight);
        for (; key_tile > (row0 < length ? own_tile : -1); --key_tile) {
          mbarrier_wait(&state.full[s], parity);
          __syncwarp();  // every lane has seen this phase
          release(&state.empty[s]);
          if (++s == kStages) s = 0, parity ^= 1;
        }
      }
      if (kPairHeads || row0 < length) {
        RunningSoftmax softmax;
        int used = -1;
        const bool bounded = warp_uniform(state.bounded[b]);
        clear(softmax, bounded);
        for (; key_tile >= 0; --key_tile) {
          mbarrier_wait(&state.full[s], parity);
          query_step(softmax, queries[b], keys[s], values[s], key_tile == own_tile, bounded,
                     to_log2, warp, lane, [&] {
                       if (used >= 0) release(&state.empty[used]);
                     });
          used = s;
          if (++s == kStages) s = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        wgmma_pin(softmax.out);
        release(&state.empty[used]);
        const int64_t first = int64_t{state.tile[b].query_begin} + row0;
        const int head = state.head[b] + (kPairHeads ? member : 0);
        const int64_t y_stride = static_cast<int64_t>(H) * kTile;
        store_output(
            softmax, scale, team.q[b][member],
            y_dot_v ? team.own_v[b][kPairHeads ? 0 : member] : nullptr, 1 + warpgroup, warp, lane,
            {y + first * y_stride + head * kTile, y_stride, lse + head * Q + first,
             y_dot_v + first * H + head, H, length - row0, state.tile[b].first_query - row0});
      }
      // The copy engine writes next where this thread wrote and read.
      fence_async_shared();
      __syncwarp();
      release(&state.q_empty[b]);
    }
  }
}

}  // namespace fairway::cuda::attention_sm90
