// Several adapters' dxa = g B and dB = gᵀ xa on Hopper, g = out_scale⊙dy.
//
// A cluster of two blocks takes chunks of documents' rows, each for one adapter. Block 0 makes dxa,
// with the document's B in shared memory, block 1 makes dB, in registers. Both need all of dy: each
// loads half of a stage and sends it to both, so that it comes from memory once. A stage is 128
// rows of 128 columns of dy, of which every warpgroup of both blocks has its share, 64 rows in
// block 0, 64 columns in block 1: stages come free in the order in which they were loaded. Clusters
// stay for several chunks, so that loads run ahead while dB is stored.
#pragma once

#include <cstdint>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/ops/low_rank_sm90.cuh"
#include "fairway/sm90/cluster.cuh"
#include "fairway/sm90/tma.cuh"

namespace fairway::cuda::low_rank_sm90 {

// Two warpgroups multiply, one loads.
constexpr int kUpsThreads = 3 * kWarpgroupThreads;
// Registers of a thread that loads and of the others, of 3 x 168 in all.
constexpr int kUpsLoaderRegisters = 40, kUpsRegisters = 232;
constexpr int kUpsRing = 4;  // stages
constexpr int kUpsRows = 2 * kStageRows, kPartColumns = 2 * kBox, kMostParts = 4;

struct UpsAdapter {
  CUtensorMap dy;  // tensor_map
  CUtensorMap b;   // of out_scale⊙B: tensor_map_narrow_each, boxes of kPartColumns rows
  int parts;       // of kPartColumns columns of dy, the last with zeros
  int column;      // of xa and dxa, its first
  Gradient db;     // of this adapter alone; without d not wanted
};

struct UpsBackward {
  const int32_t* doc_rows;
  int docs, count, rank;
  int64_t pitch;  // of dxa
  bf16* dxa;
  CUtensorMap xa;  // tensor_map_narrow
  UpsAdapter adapter[kMaxLowRankGroup];
};
static_assert(sizeof(UpsBackward) <= 4096, "a kernel's parameters");

// The narrow operand of both products: 128 rows of K. Block 0 has a part of B, block 1 rows of xa.
constexpr int kNarrowTileRows = kUpsRows;
static_assert(kNarrowTileRows == kPartColumns);
constexpr int kNarrowTileBytes = kNarrowTileRows * kNarrowRowBytes;  // of 32 columns

// Narrow operands come round a ring of as many places as the stages', without barriers of their
// own. Each arrives with the first stage that uses it: part p of B with part p of the chunk's first
// rows, rows of xa with part 0 of these rows. The last stages that do are part p of the chunk's
// last rows, and the last part of the rows. Between these and the first one of the operand kUpsRing
// further there are kUpsRing − 1 others at least: one for each of the operands between the two, be
// they parts of the chunk's last rows or of the next chunk's first. So who may overwrite the stage
// may overwrite what lies in its operand's place.
template <int kRank>
struct alignas(1024) UpsShared {
  static constexpr int kNarrowBoxes = kRank / kNarrowBox;
  uint8_t dy[kUpsRing][2][2][kBoxBytes];  // [64 columns][64 rows]
  uint8_t narrow[kUpsRing][kNarrowBoxes][kNarrowTileBytes];
  uint64_t full[kUpsRing], empty[kUpsRing];
};
static_assert(sizeof(UpsShared<96>) <= 232448, "shared memory of a block");
static_assert(kMostParts <= kUpsRing, "all of a document's B");

// Stage i of all of a cluster's.
struct UpsStage {
  int slot;
  uint32_t parity;
  __device__ __forceinline__ explicit UpsStage(int i)
      : slot(i % kUpsRing), parity(i / kUpsRing % 2) {}
};

// f(chunk, adapter) for all that this cluster has. Called by whole warps.
template <class F>
__device__ __forceinline__ void for_each_ups_chunk(const UpsBackward& u, F&& f) {
  const int clusters = static_cast<int>(gridDim.x) / 2;
#pragma unroll 1
  for (int unit = static_cast<int>(blockIdx.x) / 2;; unit += clusters) {
    const DocTile chunk = find_chunk(u.doc_rows, u.docs, unit / u.count);
    if (chunk.doc < 0) return;
    f(chunk, u.adapter[unit % u.count]);
  }
}

// Stage i of the loading thread of block `block`: rows of dy from `row` on, of which `halves` times
// 64 are wanted; part `part`. `narrow` is the place of the narrow operand that comes with it, if
// one does.
template <int kRank>
__device__ __forceinline__ void ups_load_stage(UpsShared<kRank>& shared, const UpsBackward& u,
                                               const UpsAdapter& adapter, int block, int i, int doc,
                                               int row, int halves, int part, bool with_narrow,
                                               int narrow) {
  constexpr int kNarrowBoxes = UpsShared<kRank>::kNarrowBoxes;
  const UpsStage stage(i);
  uint64_t* const full = &shared.full[stage.slot];
  if (i >= kUpsRing) mbarrier_wait(&shared.empty[stage.slot], stage.parity ^ 1);
  const int narrow_bytes =
      block == 0 ? kNarrowBoxes * kNarrowTileBytes : halves * kNarrowBoxes * kNarrowBoxBytes;
  mbarrier_arrive_expect(
      full, static_cast<uint32_t>(halves * 2 * kBoxBytes + (with_narrow ? narrow_bytes : 0)));
  for (int h = 0; h < halves; ++h)
    tma_load_2d_multicast(shared.dy[stage.slot][block][h], &adapter.dy, full,
                          part * kPartColumns + block * kBox, row + h * kStageRows, 0b11);
  if (!with_narrow) return;
#pragma unroll
  for (int n = 0; n < kNarrowBoxes; ++n) {
    uint8_t* const to = shared.narrow[narrow % kUpsRing][n];
    if (block == 0)
      tma_load_3d(to, &adapter.b, full, n * kNarrowBox, part * kPartColumns, doc);
    else
      for (int h = 0; h < halves; ++h)
        tma_load_2d(to + h * kNarrowBoxBytes, &u.xa, full, adapter.column + n * kNarrowBox,
                    row + h * kStageRows);
  }
}

// The loading warp of block `block`.
template <int kRank>
__device__ __forceinline__ void ups_load(UpsShared<kRank>& shared, const UpsBackward& u, int block,
                                         int lane) {
  int stage = 0, narrow = 0;
  for_each_ups_chunk(u, [&](const DocTile& chunk, const UpsAdapter& adapter) {
    if (lane == 0) {
#pragma unroll 1
      for (int at = 0; at < chunk.rows; at += kUpsRows) {
        const int row = static_cast<int>(chunk.begin) + at;
        const int halves = chunk.rows - at > kStageRows ? 2 : 1;
#pragma unroll 1
        for (int p = 0; p < adapter.parts; ++p, ++stage) {
          const bool with_narrow = block == 0 ? at == 0 : p == 0;
          ups_load_stage<kRank>(shared, u, adapter, block, stage, chunk.doc, row, halves, p,
                                with_narrow, narrow);
          if (with_narrow) ++narrow;
        }
      }
    }
    __syncwarp();
  });
}

// Hands a stage back to both blocks: one arrival per warp and block.
template <int kRank>
__device__ __forceinline__ void ups_release(UpsShared<kRank>& shared, int slot, int lane) {
  if (lane < 2) mbarrier_arrive_cluster(&shared.empty[slot], static_cast<uint32_t>(lane));
}

// dxa, of each 32 columns 8 of two rows of the 64 from `row` on.
template <int kRank>
__device__ __forceinline__ void ups_store(const UpsBackward& u, const UpsAdapter& adapter,
                                          const DocTile& chunk, int row, int lane,
                                          const float (&sum)[kRank / 2]) {
  const int column = 8 * (lane % 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int at = row + 8 * h + lane / 4;
    bf16* const to = u.dxa + (chunk.begin + at) * u.pitch + adapter.column + column;
#pragma unroll
    for (int g = 0; g < kRank / 32; ++g) {
      const uint4 x = neighbouring_8(sum + 16 * g + 2 * h, lane);
      if (at < chunk.rows && 32 * g + column < u.rank) *reinterpret_cast<uint4*>(to + 32 * g) = x;
    }
  }
}

// Block 0: dxa, 64 rows of every stage.
template <int kRank>
__device__ __forceinline__ void ups_products(UpsShared<kRank>& shared, const UpsBackward& u,
                                             int warpgroup, int warp, int lane) {
  int i = 0, narrow = 0;
  for_each_ups_chunk(u, [&](const DocTile& chunk, const UpsAdapter& adapter) {
    float sum[kRank / 2];
#pragma unroll 1
    for (int at = 0; at < chunk.rows; at += kUpsRows) {
      const int row = at + kStageRows * warpgroup;
#pragma unroll 1
      for (int p = 0; p < adapter.parts; ++p, ++i) {
        const UpsStage stage(i);
        mbarrier_wait(&shared.full[stage.slot], stage.parity);
        if (row < chunk.rows) {
          const uint64_t dy =
              wgmma_descriptor_k(shared_address(shared.dy[stage.slot][0][warpgroup]));
          const uint64_t b = wgmma_descriptor_mn_32(
              shared_address(shared.narrow[(narrow + p) % kUpsRing]), kNarrowTileBytes);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < kPartColumns / 16; ++k)
            multiply<kRank, 0, 1>(
                sum, wgmma_advance(dy, k / (kBox / 16) * (2 * kBoxBytes) + k % (kBox / 16) * 32),
                wgmma_advance(b, k * 16 * kNarrowRowBytes), p + k > 0);
          wgmma_commit();
          wgmma_wait<0>();
          wgmma_pin(sum);
        } else {
          __syncwarp();  // every lane has seen this phase
        }
        ups_release(shared, stage.slot, lane);
      }
      if (row < chunk.rows) ups_store<kRank>(u, adapter, chunk, row + 16 * warp, lane, sum);
    }
    if (chunk.rows > 0) narrow += adapter.parts;
  });
}

// Adds what kHalves times 64 rows give.
template <int kRank, int kHalves>
__device__ __forceinline__ void ups_add(float (&sum)[kRank / 2], uint64_t wide, uint64_t rows) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kHalves * kStageRows / 16; ++k)
    multiply<kRank, 1, 1>(sum, wgmma_advance(wide, k * 16 * kRowBytes),
                          wgmma_advance(rows, k * 16 * kNarrowRowBytes), true);
  wgmma_commit();
  wgmma_wait<0>();
}

// Zeroes rows [from, kUpsRows), of kRow bytes each, by a warpgroup.
template <int kRow>
__device__ __forceinline__ void ups_zero_rows(uint8_t* rows, int from, int thread) {
#pragma unroll 1
  for (int at = from * kRow + 16 * thread; at < kUpsRows * kRow; at += 16 * kWarpgroupThreads)
    *reinterpret_cast<uint4*>(rows + at) = uint4{};
}

// dB of the columns of each part that a warpgroup has.
template <int kRank>
__device__ __forceinline__ void ups_store_gradient(const Gradient& g, const DocTile& chunk,
                                                   int warpgroup, int warp, int lane,
                                                   float (&sum)[kMostParts][kRank / 2]) {
  const int first = kBox * warpgroup + 16 * warp + lane / 4;
  if (g.wide_scale) {
#pragma unroll
    for (int p = 0; p < kMostParts; ++p)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = first + p * kPartColumns + 8 * h;
        const float scale = row < g.width ? __ldg(g.wide_scale + row) : 1.0f;
#pragma unroll
        for (int j = 0; j < kRank / 8; ++j) {
          sum[p][4 * j + 2 * h] *= scale;
          sum[p][4 * j + 2 * h + 1] *= scale;
        }
      }
  }
  const SumsPlace to = sums_of(g, chunk, 0);
#pragma unroll
  for (int p = 0; p < kMostParts; ++p)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = first + p * kPartColumns + 8 * h;
      const int valid = row < g.width ? g.rank : 0;
      int64_t at = row * g.wide_step;
      asm volatile("" : "+l"(at));  // not computed anew for every store
#pragma unroll
      for (int j = 0; j < kRank / 32; ++j)
        store_sums_32(to, at + 32 * j, sum[p] + 16 * j + 2 * h, valid - 32 * j, lane);
    }
}

// Block 1: dB, of 64 columns of every stage.
template <int kRank>
__device__ __forceinline__ void ups_gradient(UpsShared<kRank>& shared, const UpsBackward& u,
                                             int warpgroup, int warp, int lane) {
  constexpr int kNarrowBoxes = UpsShared<kRank>::kNarrowBoxes;
  int i = 0, narrow = 0;
  for_each_ups_chunk(u, [&](const DocTile& chunk, const UpsAdapter& adapter) {
    float sum[kMostParts][kRank / 2] = {};
#pragma unroll 1
    for (int at = 0; at < chunk.rows; at += kUpsRows, ++narrow) {
      const int left = chunk.rows - at, thread = 32 * warp + lane;
      uint8_t(&xa)[kNarrowBoxes][kNarrowTileBytes] = shared.narrow[narrow % kUpsRing];
#pragma unroll
      for (int p = 0; p < kMostParts; ++p) {
        if (p >= adapter.parts) continue;
        const UpsStage stage(i++);
        mbarrier_wait(&shared.full[stage.slot], stage.parity);
        uint8_t* const dy = shared.dy[stage.slot][warpgroup][0];
        if (left < kUpsRows) {
          // Of xa each warpgroup zeroes all, so that they need not wait for each other.
          ups_zero_rows<kRowBytes>(dy, left, thread);
          if (p == 0)
            for (auto& box : xa) ups_zero_rows<kNarrowRowBytes>(box, left, thread);
          fence_async_shared();
          named_barrier_sync(1 + warpgroup, kWarpgroupThreads);
        }
        const uint64_t wide = wgmma_descriptor_mn(shared_address(dy), 2 * kBoxBytes);
        const uint64_t rows = wgmma_descriptor_mn_32(shared_address(xa), kNarrowTileBytes);
        if (left > kStageRows)
          ups_add<kRank, 2>(sum[p], wide, rows);
        else
          ups_add<kRank, 1>(sum[p], wide, rows);
        ups_release(shared, stage.slot, lane);
      }
    }
#pragma unroll
    for (int p = 0; p < kMostParts; ++p) wgmma_pin(sum[p]);
    if (adapter.db.d[0]) ups_store_gradient<kRank>(adapter.db, chunk, warpgroup, warp, lane, sum);
  });
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
      mbarrier_init(&shared.empty[i], 2 * 8);  // the warps that multiply, of both blocks
    }
    mbarrier_init_fence();
  }
  cluster_sync();
  wait_for_earlier_kernels();

  const int warpgroup = warp / 4;
  if (warpgroup == 2) {
    registers_decrease<kUpsLoaderRegisters>();
    if (warp == 8) ups_load<kRank>(shared, u, block, lane);
  } else {
    registers_increase<kUpsRegisters>();
    if (block == 0)
      ups_products<kRank>(shared, u, warpgroup, warp % 4, lane);
    else
      ups_gradient<kRank>(shared, u, warpgroup, warp % 4, lane);
  }
  // The other block may still send here, or arrive at barriers here.
  cluster_sync();
}

}  // namespace fairway::cuda::low_rank_sm90
