// Several adapters' dxa = g B and dB = gᵀ xa on Hopper, g = out_scale⊙dy.
//
// A cluster of two blocks has a chunk of a document's rows and two panels of 256 columns of dy:
// those of one adapter, or of two narrower ones. Block 0 makes dxa, with the panels' rows of B in
// shared memory, block 1 makes dB, in registers. Both need all of dy: each loads half of a stage
// (64 rows of a panel) and sends it to both, so that it comes from memory once. A stage is one
// warpgroup's alone: in block 0 warpgroups take turns with 64 rows, in block 1 each has a panel.
#pragma once

#include <cstdint>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/ops/low_rank_sm90.cuh"
#include "fairway/sm90/cluster.cuh"
#include "fairway/sm90/tma.cuh"

namespace fairway::cuda::low_rank_sm90 {

// Two warpgroups multiply, one loads.
constexpr int kUpsConsumers = 2 * kWarpgroupThreads;
constexpr int kUpsThreads = kUpsConsumers + kWarpgroupThreads;
// Registers of a thread that loads and of the others, of 3 x 168 in all.
constexpr int kUpsLoaderRegisters = 40, kUpsRegisters = 232;
constexpr int kUpsRing = 4;  // stages
constexpr int kPanel = 256, kPanelBoxes = kPanel / kBox;

// Bytes of a panel of B as block 0 reads it, bf16 [kPanelBoxes][kRank][64]: row n of a box is
// column panel_row⁻¹(n) of B, its 16-byte pieces exchanged by n % 8.
template <int kRank>
constexpr int kPanelBytes = kRank* kPanel * 2;

// Of every 32 rows n of a box: as accumulator columns they leave a lane with 8 neighbouring
// columns.
__host__ __device__ constexpr int panel_row(int column) {
  return column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 + column % 2;
}

struct UpsPanel {
  int adapter, column;  // of dy, its first
};
struct UpsJob {
  UpsPanel panel[2];
  int panels;  // 1: there is no second one
};

struct UpsAdapter {
  CUtensorMap dy;  // tensor_map
  LowRankUp<const float> up;
  int column;   // of xa and dxa, its first
  Gradient db;  // of this adapter alone; without d not wanted
};

struct UpsBackward {
  const int32_t* doc_rows;
  int docs, jobs, rank;
  int64_t pitch;  // of dxa
  bf16* dxa;
  CUtensorMap xa;  // tensor_map_narrow
  UpsJob job[kMaxLowRankGroup];
  UpsAdapter adapter[kMaxLowRankGroup];
};
static_assert(sizeof(UpsBackward) <= 4096, "a kernel's parameters");

template <int kRank>
struct alignas(1024) UpsShared {
  static constexpr int kNarrowBoxes = kRank / kNarrowBox;
  uint8_t dy[kUpsRing][kPanelBoxes * kBoxBytes];
  union {
    uint8_t b[2][kPanelBytes<kRank>];                      // block 0
    uint8_t xa[kUpsRing][kNarrowBoxes * kNarrowBoxBytes];  // block 1
  };
  uint64_t full[kUpsRing], empty[kUpsRing];
};
static_assert(sizeof(UpsShared<96>) <= 232448, "shared memory of a block");

// Step i of a job with `panels` panels is 64 rows of one.
struct UpsStep {
  int stage;
  uint32_t parity;
  __device__ __forceinline__ explicit UpsStep(int i)
      : stage(i % kUpsRing), parity(i / kUpsRing % 2) {}
};

// The loading thread of block `block`.
template <int kRank>
__device__ __forceinline__ void ups_load(UpsShared<kRank>& shared, const UpsBackward& u,
                                         const UpsJob& job, const DocTile& chunk, int steps,
                                         int block) {
  constexpr int kBoxes = kPanelBoxes / 2, kNarrowBoxes = UpsShared<kRank>::kNarrowBoxes;
  const uint32_t bytes =
      kPanelBoxes * kBoxBytes + (block == 0 ? 0 : kNarrowBoxes * kNarrowBoxBytes);
  for (int i = 0; i < steps; ++i) {
    const UpsStep step(i);
    uint64_t* const full = &shared.full[step.stage];
    if (i >= kUpsRing) mbarrier_wait(&shared.empty[step.stage], step.parity ^ 1);
    mbarrier_arrive_expect(full, bytes);
    const UpsPanel& panel = job.panel[job.panels == 1 ? 0 : i % 2];
    const UpsAdapter& adapter = u.adapter[panel.adapter];
    const int row = static_cast<int>(chunk.begin) + kStageRows * (job.panels == 1 ? i : i / 2);
#pragma unroll
    for (int b = 0; b < kBoxes; ++b) {
      const int box = block * kBoxes + b;
      tma_load_2d_multicast(shared.dy[step.stage] + box * kBoxBytes, &adapter.dy, full,
                            panel.column + box * kBox, row, 0b11);
    }
    if (block == 0) continue;
#pragma unroll
    for (int b = 0; b < kNarrowBoxes; ++b)
      tma_load_2d(shared.xa[step.stage] + b * kNarrowBoxBytes, &u.xa, full,
                  adapter.column + b * kNarrowBox, row);
  }
}

// A panel of one document's B to shared memory, by the threads of both warpgroups: all loads, then
// all stores. What lies outside of B is zero.
template <int kRank>
__device__ __forceinline__ void ups_fill(uint8_t* to, const LowRankUp<const float>& up, int doc,
                                         int column, int rank, int thread) {
  // A thread's shares: 8 rows of 4 neighbouring columns each.
  constexpr int kQuads = kRank / 4, kShares = kPanel / 8 * kQuads / kUpsConsumers;
  const float* const from = up.b + doc * up.stride + int64_t{column} * rank;
  const float* const scale = up.out_scale ? up.out_scale + column : nullptr;
  const int rows = static_cast<int>(up.out) - column;
  float4 v[kShares][8] = {};
  float factor[kShares][8] = {};
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
    const int share = i * kUpsConsumers + thread;
    const int row = share / kQuads * 8, first = share % kQuads * 4;
    if (row >= rows || first >= rank) continue;  // `rows` and `rank` are multiples of 8
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      v[i][k] = __ldg(reinterpret_cast<const float4*>(from + int64_t{row + k} * rank + first));
      factor[i][k] = scale ? __ldg(scale + row + k) : 1.0f;
    }
  }
#pragma unroll
  for (int i = 0; i < kShares; ++i) {
    const int share = i * kUpsConsumers + thread;
    const int piece = share / kQuads, first = share % kQuads * 4;
    const auto pair = [&](int k, float low, float high) {
      return pack_bf16(factor[i][k] * low, factor[i][k + 1] * high);
    };
    const float4(&x)[8] = v[i];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const auto at = [&](int k) {
        return c == 0 ? x[k].x : c == 1 ? x[k].y : c == 2 ? x[k].z : x[k].w;
      };
      const int n = panel_row(first + c);
      *reinterpret_cast<uint4*>(to + (piece / 8 * kRank + n) * kRowBytes +
                                ((piece % 8) ^ (n % 8)) * 16) = {
          pair(0, at(0), at(1)), pair(2, at(2), at(3)), pair(4, at(4), at(5)),
          pair(6, at(6), at(7))};
    }
  }
}

// Hands a stage back to both blocks: one arrival per warp and block.
template <int kRank>
__device__ __forceinline__ void ups_release(UpsShared<kRank>& shared, int stage, int lane) {
  if (lane < 2) mbarrier_arrive_cluster(&shared.empty[stage], static_cast<uint32_t>(lane));
}

// dxa, this thread's 8 columns of each 32, of two rows of the 64 from `row` on.
template <int kRank>
__device__ __forceinline__ void ups_store(const UpsBackward& u, const UpsAdapter& adapter,
                                          const DocTile& chunk, int row, int lane,
                                          const float (&sum)[kRank / 2]) {
  const int column = 8 * (lane % 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int at = row + 8 * h + lane / 4;
    if (at >= chunk.rows) continue;
    bf16* const to = u.dxa + (chunk.begin + at) * u.pitch + adapter.column + column;
#pragma unroll
    for (int g = 0; g < kRank / 32; ++g) {
      const float* const v = sum + 16 * g + 2 * h;
      if (32 * g + column < u.rank)
        *reinterpret_cast<uint4*>(to + 32 * g) = {pack_bf16(v[0], v[1]), pack_bf16(v[4], v[5]),
                                                  pack_bf16(v[8], v[9]), pack_bf16(v[12], v[13])};
    }
  }
}

// Block 0: every second 64 rows of dxa.
template <int kRank>
__device__ __forceinline__ void ups_products(UpsShared<kRank>& shared, const UpsBackward& u,
                                             const UpsJob& job, const DocTile& chunk, int warpgroup,
                                             int warp, int lane) {
  for (int p = 0; p < job.panels; ++p)
    ups_fill<kRank>(shared.b[p], u.adapter[job.panel[p].adapter].up, chunk.doc, job.panel[p].column,
                    u.rank, kWarpgroupThreads * warpgroup + 32 * warp + lane);
  fence_async_shared();
  named_barrier_sync(1, kUpsConsumers);
  float sum[kRank / 2];
#pragma unroll 1
  for (int row = kStageRows * warpgroup; row < chunk.rows; row += 2 * kStageRows) {
#pragma unroll 1
    for (int p = 0; p < job.panels; ++p) {
      const int adapter = job.panel[p].adapter;
      const bool goes_on = p > 0 && job.panel[0].adapter == adapter;
      const UpsStep step(row / kStageRows * job.panels + p);
      mbarrier_wait(&shared.full[step.stage], step.parity);
      const uint64_t dy = wgmma_descriptor_k(shared_address(shared.dy[step.stage]));
      const uint64_t b = wgmma_descriptor_k(shared_address(shared.b[p]));
      wgmma_fence();
#pragma unroll
      for (int box = 0; box < kPanelBoxes; ++box)
#pragma unroll
        for (int k = 0; k < kBox / 16; ++k)
          multiply<kRank, 0, 0>(sum, wgmma_advance(dy, box * kBoxBytes + 32 * k),
                                wgmma_advance(b, box * kRank * kRowBytes + 32 * k),
                                goes_on || box + k > 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_pin(sum);
      ups_release(shared, step.stage, lane);
      if (p + 1 == job.panels || job.panel[p + 1].adapter != adapter)
        ups_store<kRank>(u, u.adapter[adapter], chunk, row + 16 * warp, lane, sum);
    }
  }
}

// Block 1: dB of panel `panel`.
template <int kRank>
__device__ __forceinline__ void ups_gradient(UpsShared<kRank>& shared, const UpsBackward& u,
                                             const UpsJob& job, const DocTile& chunk, int panel,
                                             int warp, int lane) {
  constexpr int kNarrowBoxes = UpsShared<kRank>::kNarrowBoxes;
  float sum[kPanelBoxes][kRank / 2] = {};
  const int stages = (chunk.rows + kStageRows - 1) / kStageRows;
#pragma unroll 1
  for (int i = 0; i < stages; ++i) {
    const UpsStep step(i * job.panels + panel);
    mbarrier_wait(&shared.full[step.stage], step.parity);
    const int left = chunk.rows - i * kStageRows;
    if (left < kStageRows) {
      const int thread = 32 * warp + lane;
      zero_rows<kPanelBoxes, kRowBytes>(shared.dy[step.stage], left, thread, kWarpgroupThreads);
      zero_rows<kNarrowBoxes, kNarrowRowBytes>(shared.xa[step.stage], left, thread,
                                               kWarpgroupThreads);
      fence_async_shared();
      named_barrier_sync(1 + panel, kWarpgroupThreads);
    }
    const uint64_t dy = wgmma_descriptor_mn(shared_address(shared.dy[step.stage]), kBoxBytes);
    const uint64_t xa =
        wgmma_descriptor_mn_32(shared_address(shared.xa[step.stage]), kNarrowBoxBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStageRows / 16; ++k)
#pragma unroll
      for (int box = 0; box < kPanelBoxes; ++box)
        multiply<kRank, 1, 1>(sum[box], wgmma_advance(dy, box * kBoxBytes + k * 16 * kRowBytes),
                              wgmma_advance(xa, k * 16 * kNarrowRowBytes), true);
    wgmma_commit();
    wgmma_wait<0>();
    ups_release(shared, step.stage, lane);
  }
#pragma unroll
  for (int box = 0; box < kPanelBoxes; ++box) wgmma_pin(sum[box]);

  const Gradient& g = u.adapter[job.panel[panel].adapter].db;
  if (g.d[0] == nullptr) return;
  const int column = 2 * (lane % 4);
  const int first = job.panel[panel].column + 16 * warp + lane / 4;
  float* const d = sums_of(g, chunk, 0) + column;
  float scale[kPanelBoxes][2];
#pragma unroll
  for (int box = 0; box < kPanelBoxes; ++box)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first + box * kBox + 8 * h;
      scale[box][h] = g.wide_scale && row < g.width ? __ldg(g.wide_scale + row) : 1.0f;
    }
#pragma unroll
  for (int box = 0; box < kPanelBoxes; ++box)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first + box * kBox + 8 * h;
      if (row >= g.width) continue;
#pragma unroll
      for (int j = 0; j < kRank / 8; ++j)
        if (column + 8 * j < g.rank)
          *reinterpret_cast<float2*>(d + int64_t{row} * g.wide_step + 8 * j) = {
              scale[box][h] * sum[box][4 * j + 2 * h], scale[box][h] * sum[box][4 * j + 2 * h + 1]};
    }
}

template <int kRank>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kUpsThreads, 1)
    ups_backward_kernel(const __grid_constant__ UpsBackward u) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<UpsShared<kRank>*>(shared_bytes);
  const int block = warp_uniform(static_cast<int>(cluster_rank()));
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kUpsRing; ++i) {
      mbarrier_init(&shared.full[i], 1);
      mbarrier_init(&shared.empty[i], 2 * 4);  // the warps of a warpgroup of both blocks
    }
    mbarrier_init_fence();
  }
  cluster_sync();
  wait_for_earlier_kernels();

  const int unit = static_cast<int>(blockIdx.x) / 2;
  const DocTile chunk = find_chunk(u.doc_rows, u.docs, unit / u.jobs);
  if (chunk.doc < 0) return;  // so does the other block
  const UpsJob& job = u.job[unit % u.jobs];

  const int warpgroup = warp / 4;
  if (warpgroup == 2) {
    registers_decrease<kUpsLoaderRegisters>();
    const int steps = (chunk.rows + kStageRows - 1) / kStageRows * job.panels;
    if (warp == 8 && lane == 0) ups_load<kRank>(shared, u, job, chunk, steps, block);
    __syncwarp();
  } else {
    registers_increase<kUpsRegisters>();
    if (block == 0)
      ups_products<kRank>(shared, u, job, chunk, warpgroup, warp % 4, lane);
    else if (warpgroup < job.panels)
      ups_gradient<kRank>(shared, u, job, chunk, warpgroup, warp % 4, lane);
  }
  // The other block may still send here, or arrive at barriers here.
  cluster_sync();
}

}  // namespace fairway::cuda::low_rank_sm90
