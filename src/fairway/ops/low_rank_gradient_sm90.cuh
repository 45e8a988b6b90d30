// d[rank, wide] = narrowᵀ wide over each document's rows on Hopper: dA = dxaᵀ x for all adapters of
// x at once, whose dxa are `narrow`'s columns.
#pragma once

#include "fairway/ops/low_rank_sm90.cuh"
#include "fairway/sm90/tma.cuh"

namespace fairway::cuda::low_rank_sm90 {

// A block has two warpgroups with kTiles times 64 of narrow's columns each, which share kWide of
// the wide columns, and one that loads. kStages: of the ring.
template <int tiles, int wide_columns, int stages>
struct GradientTile {
  static constexpr int kTiles = tiles, kStages = stages;
  static constexpr int kNarrowBoxes = 2 * tiles, kNarrowColumns = kNarrowBoxes * kBox;
  static constexpr int kWideBoxes = wide_columns / kBox, kWideColumns = wide_columns;
  struct alignas(1024) Shared {
    uint8_t narrow[stages][kNarrowBoxes * kBoxBytes];
    uint8_t wide[stages][kWideBoxes * kBoxBytes];
    uint64_t full[stages], empty[stages];
  };
};

constexpr int kConsumerThreads = 2 * kWarpgroupThreads;
constexpr int kBlockThreads = kConsumerThreads + kWarpgroupThreads;
// Registers of a thread that loads and of the others, of 3 x 168 in all.
constexpr int kLoaderRegisters = 40, kConsumerRegisters = 232;

// `narrow` and `wide`: tensor_map. Blocks of the same rows are neighbours: tiles of narrow's
// columns within tiles of the wide ones, g.tiles of both.
template <class Tile>
__global__ void __launch_bounds__(kBlockThreads, 1)
    gradient_kernel(const __grid_constant__ CUtensorMap narrow,
                    const __grid_constant__ CUtensorMap wide, const __grid_constant__ Gradient g,
                    int narrow_tiles) {
  constexpr int kStages = Tile::kStages, kTiles = Tile::kTiles, kN = Tile::kWideColumns;
  constexpr int kNarrowBoxes = Tile::kNarrowBoxes, kWideBoxes = Tile::kWideBoxes;
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<typename Tile::Shared*>(shared_bytes);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int warp = warp_uniform(thread / 32);
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&shared.full[i], 1);
      mbarrier_init(&shared.empty[i], kConsumerThreads / 32);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  wait_for_earlier_kernels();

  const auto index = static_cast<int>(blockIdx.x);
  const DocTile chunk = find_chunk(g.doc_rows, g.docs, index / g.tiles);
  if (chunk.doc < 0) return;
  const int place = index % g.tiles;
  const int narrow_begin = place % narrow_tiles * Tile::kNarrowColumns;
  const int wide_begin = place / narrow_tiles * kN;
  const int steps = (chunk.rows + kStageRows - 1) / kStageRows;

  if (warp >= kConsumerThreads / 32) {
    registers_decrease<kLoaderRegisters>();
    if (thread != kConsumerThreads) return;
    for (int i = 0; i < steps; ++i) {
      const int s = i % kStages;
      if (i >= kStages) mbarrier_wait(&shared.empty[s], (i / kStages - 1) & 1);
      mbarrier_arrive_expect(&shared.full[s], (kNarrowBoxes + kWideBoxes) * kBoxBytes);
      const int row = static_cast<int>(chunk.begin) + i * kStageRows;
#pragma unroll
      for (int b = 0; b < kNarrowBoxes; ++b)
        tma_load_2d(shared.narrow[s] + b * kBoxBytes, &narrow, &shared.full[s],
                    narrow_begin + b * kBox, row);
#pragma unroll
      for (int b = 0; b < kWideBoxes; ++b)
        tma_load_2d(shared.wide[s] + b * kBoxBytes, &wide, &shared.full[s], wide_begin + b * kBox,
                    row);
    }
    return;
  }

  registers_increase<kConsumerRegisters>();
  const int first_box = warp / 4 * kTiles;
  float sum[kTiles][kN / 2] = {};
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    const int s = i % kStages;
    mbarrier_wait(&shared.full[s], (i / kStages) & 1);
    const int left = chunk.rows - i * kStageRows;
    if (left < kStageRows) {
      zero_rows<kNarrowBoxes, kRowBytes>(shared.narrow[s], left, thread, kConsumerThreads);
      zero_rows<kWideBoxes, kRowBytes>(shared.wide[s], left, thread, kConsumerThreads);
      fence_async_shared();
      named_barrier_sync(1, kConsumerThreads);
    }
    const uint64_t a =
        wgmma_descriptor_mn(shared_address(shared.narrow[s] + first_box * kBoxBytes), kBoxBytes);
    const uint64_t b = wgmma_descriptor_mn(shared_address(shared.wide[s]), kBoxBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStageRows / 16; ++k)
#pragma unroll
      for (int m = 0; m < kTiles; ++m)
        multiply<kN, 1, 1>(sum[m], wgmma_advance(a, m * kBoxBytes + k * 16 * kRowBytes),
                           wgmma_advance(b, k * 16 * kRowBytes), true);
    wgmma_commit();
    wgmma_wait<1>();
    if (i > 0 && lane == 0) mbarrier_arrive(&shared.empty[(i - 1) % kStages]);
  }
  wgmma_wait<0>();

#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    wgmma_pin(sum[m]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int column = narrow_begin + (first_box + m) * kBox + 16 * (warp % 4) + 8 * h + lane / 4;
      const int adapter = column / g.rank;
      // Behind the last adapter nothing is stored, but a quad's lanes go along.
      const SumsPlace to = sums_of(g, chunk, min(adapter, g.count - 1));
      const int width = adapter < g.count ? g.width - wide_begin : 0;
      const int64_t at = (column - adapter * g.rank) * g.rank_step + wide_begin;
#pragma unroll
      for (int j = 0; j < kN / 32; ++j)
        store_sums_32(to, at + 32 * j, sum[m] + 16 * j + 2 * h, width - 32 * j, lane);
    }
  }
}

}  // namespace fairway::cuda::low_rank_sm90
