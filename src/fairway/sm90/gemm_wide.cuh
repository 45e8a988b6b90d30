// The matrix product C = A B on Hopper with 128 x 256 tiles: persistent clusters of blocks, a
// producer warp that feeds shared memory through the bulk tensor copy engine, two consumer
// warpgroups of 64 rows each, and an epilogue fused between the accumulators and C.
//
// A is [M, K] and B is [K, N] in bf16, each contiguous along either axis; sums are float, along K
// in order; an element's bits depend on its row of A, its column of B and the configuration alone.
//
// The consumers share every stage but nothing else: while one is in its epilogue the other has the
// tensor cores to itself, as far as the stages let it lag. An epilogue's length is what counts, so
// it never waits for another warp: each warp turns its 16 x 64 pieces around in two buffers of its
// own.
//
// An epilogue is a class:
//   struct Params                        passed to the kernel
//   static constexpr bool kInput         whether it reads a bf16 matrix shaped as C
//   Epilogue(params, at)                 before the tile's products: the place for early loads
//   chunk(c, row, column, v, in)         turns 64 x 64 accumulators into C: v[4j + 2h + e] is
//                                        (row + 8h, column + 8j + e); in[2j + h] packs the inputs
//   finish()                             after the last chunk
// and, with kInput,
//   static constexpr bool kPrepares      whether there is
//   static prepare(pair)                 turns packed inputs into what `in` shall hold, in the
//                                        shadow of the tile's last products
// With Store::kNone nothing goes to C; in place of the last two there is
//   accumulators(acc)                    all accumulators of the consumer's tile
#pragma once

#include <cuda_bf16.h>

#include "fairway/sm90/cluster.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/gemm_tile.cuh"
#include "fairway/sm90/matrix_move.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"
#include "fairway/sm90/wgmma.cuh"

namespace fairway::sm90 {

// How a warp's pieces of C leave: not at all, by ordinary 16-byte stores, or by the copy engine.
enum class Store { kNone, kDirect, kCopyEngine };
// What several segments split: columns (several B and C share A) or K (C sums several products).
enum class Split { kColumns, kK };

// What is used where nothing else is said. Lead: how many blocks along K consumer 0 issues of a
// tile before consumer 1 may begin it.
constexpr Store kWideStore = Store::kCopyEngine;
constexpr int kWideCluster = 2;
constexpr int kWideLead = 0;

// Blocks of a cluster have the same columns: each loads its part of a block of B and sends it to
// all.
template <Major major_a, Major major_b, int segments = 1, Split split = Split::kColumns,
          Store store = kWideStore, int cluster = kWideCluster, int lead = kWideLead>
struct WideConfig {
  static constexpr Major kMajorA = major_a;
  static constexpr Major kMajorB = major_b;
  static constexpr Store kStore = store;
  static constexpr int kCluster = cluster;
  static constexpr int kLead = lead;
  static constexpr int kSegments = segments;
  static constexpr bool kSplitsK = split == Split::kK;
  static constexpr int kTileColumns = 256;
  static constexpr int kStages = 4;
  static constexpr int kConsumersPerTile = 2;
  static constexpr int kFragments = 1;  // of 64 rows, per consumer
  // The epilogue's pieces, 64 x 64 each, beside each other.
  static constexpr int kChunks = kTileColumns / kBox;
  static constexpr int kChunksAcross = kChunks;
  static constexpr int kBytesA = kTileRows * kBlockK * 2;
  static constexpr int kBytesB = kTileColumns * kBlockK * 2;
  // Registers of a producer and of a consumer thread, of 3 x 168 in all.
  static constexpr int kProducerRegisters = segments == 1 ? 24 : 40;
  static constexpr int kConsumerRegisters = segments == 1 ? 240 : 232;
};

constexpr int kPieceRows = 16;  // a warp's rows
constexpr int kPieceBytes = kPieceRows * kBox * 2;

template <class Config>
struct alignas(1024) WideShared {
  uint8_t a[Config::kStages][Config::kBytesA];
  uint8_t b[Config::kStages][Config::kBytesB];
  uint8_t piece[Config::kStore == Store::kNone ? 1 : 8][2][kPieceBytes];  // of each consumer warp
  uint64_t full[Config::kStages], empty[Config::kStages];
};

template <int kSegments>
struct WideMatrices {
  CUtensorMap a[kSegments], b[kSegments];  // boxes of 64 x 64
  CUtensorMap c[kSegments];                // boxes of 16 rows x 64
  bf16* to[kSegments];                     // C
  const bf16* input;                       // what the epilogue reads, shaped as C
  int columns[kSegments];                  // of C
  int rows;
};

struct WideSchedule {
  int column_tiles;
  int row_groups;  // a row tile per block of the cluster
  int splits;      // parts of K, each with all tiles
  int k_blocks;    // blocks of 64 along K
  int k_blocks_per_split;
  // Where the second and third segment begin: in column tiles or blocks along K.
  int segment_begin[kMaxSegments] = {0, INT32_MAX, INT32_MAX};
};

template <int kSegments>
__device__ __forceinline__ GemmSegment wide_segment(const WideSchedule& schedule, int position) {
  if constexpr (kSegments == 1) {
    return {0, position};
  } else {
    const int second = schedule.segment_begin[1], third = schedule.segment_begin[2];
    const int index = (position >= second) + (position >= third);
    return {index, position - (index == 0 ? 0 : index == 1 ? second : third)};
  }
}

// The tiles of this block, in order; all roles of the block walk the same list. Divides only at the
// start: the steps from tile to tile lie between a consumer's tiles.
template <int kCluster>
class WideWalk {
 public:
  __device__ __forceinline__ WideWalk(const WideSchedule& schedule, int rank)
      : schedule_(schedule), rank_(rank) {
    const int columns = schedule.column_tiles;
    const int stride = static_cast<int>(gridDim.x) / kCluster;
    rows_stride_ = stride / columns;
    columns_stride_ = stride - rows_stride_ * columns;
    const int unit = static_cast<int>(blockIdx.x) / kCluster, above = unit / columns;
    column_tile_ = unit - above * columns;
    split_ = above / schedule.row_groups;
    row_group_ = above - split_ * schedule.row_groups;
  }
  __device__ __forceinline__ bool done() const { return split_ >= schedule_.splits; }
  __device__ __forceinline__ void next() {
    column_tile_ += columns_stride_;
    row_group_ += rows_stride_;
    if (column_tile_ >= schedule_.column_tiles) {
      column_tile_ -= schedule_.column_tiles;
      ++row_group_;
    }
    while (row_group_ >= schedule_.row_groups) {
      row_group_ -= schedule_.row_groups;
      ++split_;
    }
  }
  __device__ __forceinline__ int unit() const {
    return (split_ * schedule_.row_groups + row_group_) * schedule_.column_tiles + column_tile_;
  }
  __device__ __forceinline__ int row_tile() const { return row_group_ * kCluster + rank_; }
  __device__ __forceinline__ int column_tile() const { return column_tile_; }
  __device__ __forceinline__ int k_begin() const { return split_ * schedule_.k_blocks_per_split; }
  __device__ __forceinline__ int k_end() const {
    return min(k_begin() + schedule_.k_blocks_per_split, schedule_.k_blocks);
  }

 private:
  const WideSchedule& schedule_;
  int rank_, rows_stride_, columns_stride_;
  int row_group_, column_tile_, split_;
};

// A place in the ring of stages.
template <int kStages>
struct WideRing {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One stage: this block's rows of A, and its part of B for all blocks of the cluster.
template <class Config>
__device__ __forceinline__ void wide_load(WideShared<Config>& shared, int stage,
                                          const CUtensorMap* map_a, const CUtensorMap* map_b,
                                          int row, int column, int k, int rank) {
  constexpr int kCluster = Config::kCluster;
  constexpr int kBoxesB = Config::kTileColumns / kBox / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  uint64_t* full = &shared.full[stage];
  mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
#pragma unroll
  for (int i = 0; i < kTileRows / kBox; ++i) {
    uint8_t* to = shared.a[stage] + i * kBoxBytes;
    const int at = row + i * kBox;
    if constexpr (Config::kMajorA == Major::kK)
      tma_load_2d(to, map_a, full, k, at);
    else
      tma_load_2d(to, map_a, full, at, k);
  }
#pragma unroll
  for (int i = 0; i < kBoxesB; ++i) {
    const int box = rank * kBoxesB + i;
    uint8_t* to = shared.b[stage] + box * kBoxBytes;
    const int at = column + box * kBox;
    const int x = Config::kMajorB == Major::kK ? k : at, y = Config::kMajorB == Major::kK ? at : k;
    if constexpr (kCluster == 1)
      tma_load_2d(to, map_b, full, x, y);
    else
      tma_load_2d_multicast(to, map_b, full, x, y, kAll);
  }
}

// The producer thread.
template <class Config>
__device__ __forceinline__ void wide_produce(WideShared<Config>& shared,
                                             const WideMatrices<Config::kSegments>& matrices,
                                             const WideSchedule& schedule, int rank) {
  constexpr int kSegments = Config::kSegments;
  WideRing<Config::kStages> ring;
  for (WideWalk<Config::kCluster> walk(schedule, rank); !walk.done(); walk.next()) {
    const int row = walk.row_tile() * kTileRows;
    const GemmSegment columns =
        wide_segment < Config::kSplitsK ? 1 : kSegments > (schedule, walk.column_tile());
    for (int k = walk.k_begin(); k < walk.k_end(); ++k) {
      const GemmSegment block = wide_segment < Config::kSplitsK ? kSegments : 1 > (schedule, k);
      mbarrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
      wide_load<Config>(shared, ring.stage, &matrices.a[block.index],
                        &matrices.b[Config::kSplitsK ? block.index : columns.index], row,
                        columns.offset * Config::kTileColumns, block.offset * kBlockK, rank);
      ring.next();
    }
  }
}

// acc (+)= a block of A times a block of B: issues and commits, without waiting.
template <class Config>
__device__ __forceinline__ void wide_issue_block(float (&acc)[128], const uint8_t* a,
                                                 const uint8_t* b, bool accumulate) {
  constexpr int kTransA = Config::kMajorA == Major::kMN, kTransB = Config::kMajorB == Major::kMN;
  constexpr uint32_t kStepA = kTransA ? 2048 : 32, kStepB = kTransB ? 2048 : 32;
  const uint32_t at_a = shared_address(a), at_b = shared_address(b);
  const uint64_t desc_a = kTransA ? wgmma_descriptor_mn(at_a, kBoxBytes) : wgmma_descriptor_k(at_a);
  const uint64_t desc_b = kTransB ? wgmma_descriptor_mn(at_b, kBoxBytes) : wgmma_descriptor_k(at_b);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kBlockK / 16; ++step)
    wgmma_m64n256k16<kTransA, kTransB>(acc, wgmma_advance(desc_a, step * kStepA),
                                       wgmma_advance(desc_b, step * kStepB),
                                       accumulate || step > 0);
  wgmma_commit();
}

// Hands a stage back to the producers of all blocks: one arrival per warp and block.
template <class Config>
__device__ __forceinline__ void wide_release(WideShared<Config>& shared, int stage, int lane) {
  if constexpr (Config::kCluster == 1) {
    if (lane == 0) mbarrier_arrive(&shared.empty[stage]);
  } else {
    if (lane < Config::kCluster)
      mbarrier_arrive_cluster(&shared.empty[stage], static_cast<uint32_t>(lane));
  }
}

// Chunks whose input stays as it is: with all prepared registers do not suffice.
constexpr int kUnprepared = 2;

template <class Epilogue>
constexpr bool wide_prepares() {
  if constexpr (Epilogue::kInput)
    return Epilogue::kPrepares;
  else
    return false;
}

// The products of one consumer's tile. `early` runs once the first block is issued, `late` before
// the last one is.
template <class Config, bool kLate, class Early, class Late>
__device__ __forceinline__ void wide_products(WideShared<Config>& shared, float (&acc)[128],
                                              WideRing<Config::kStages>& ring, int blocks,
                                              int consumer, int lane, const Early& early,
                                              const Late& late) {
  constexpr int kLeadBarrier = 1;
  // With stages for all of a tile consumer 0 could be two tiles ahead.
  const bool leads = Config::kLead > 0 && blocks > Config::kStages;
  const auto issue = [&](bool accumulate) {
    mbarrier_wait(&shared.full[ring.stage], ring.parity);
    wide_issue_block<Config>(acc, shared.a[ring.stage] + consumer * kBoxBytes, shared.b[ring.stage],
                             accumulate);
  };
  if (leads && consumer == 1) named_barrier_sync(kLeadBarrier, 2 * kWarpgroupThreads);
  issue(false);
  early();
  int previous = ring.stage;
  ring.next();
  // In a branch: the compiler would move it behind the products again.
  const int late_at = blocks > 2 ? blocks - 2 : 1;
  for (int k = 1; k < blocks; ++k) {
    issue(true);
    if (leads && consumer == 0 && k + 1 == Config::kLead)
      named_barrier_arrive(kLeadBarrier, 2 * kWarpgroupThreads);
    if (kLate && k == late_at) late();
    wgmma_wait<1>();
    wide_release(shared, previous, lane);
    previous = ring.stage;
    ring.next();
  }
  if (kLate && blocks == 1) late();
  wgmma_wait<0>();
  wgmma_pin(acc);
  wide_release(shared, previous, lane);
}

__device__ __forceinline__ uint4 load_shared_16(uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at)
               : "memory");
  return v;
}
__device__ __forceinline__ void store_shared_16(uint32_t at, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}
// Read once: not kept in the first cache. `valid` false: zeros.
__device__ __forceinline__ uint4 load_global_16(const bf16* from, bool valid) {
  uint4 v;
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n"
      "mov.u32 %0, 0;\nmov.u32 %1, 0;\nmov.u32 %2, 0;\nmov.u32 %3, 0;\n"
      "@p ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(valid))
      : "memory");
  return v;
}

// A warp's way between accumulators and rows of memory: pieces of 16 rows x 64 columns, in memory
// order four rows per access, one lane per 16 bytes. Rows of a piece are 128 bytes with their
// 16-byte parts exchanged by row % 8, as in a box of the copy engine.
struct WidePiece {
  uint32_t fragment;  // this lane's row for ldmatrix and stmatrix
  uint32_t row;       // this lane's first row in memory order
  int lane;

  __device__ __forceinline__ WidePiece(const uint8_t* piece, int thread_lane) : lane(thread_lane) {
    fragment = shared_address(piece) + static_cast<uint32_t>(lane % 16) * 128;
    row = shared_address(piece) + static_cast<uint32_t>(lane / 8) * 128;
  }
  __device__ __forceinline__ uint32_t fragment_part(int buffer, int j) const {
    return fragment + buffer * kPieceBytes +
           (static_cast<uint32_t>((2 * j + lane / 16) ^ (lane % 8)) << 4);
  }
  // Row 4 i + lane / 8.
  __device__ __forceinline__ uint32_t row_part(int buffer, int i) const {
    return row + buffer * kPieceBytes + i * 512 +
           (static_cast<uint32_t>((lane % 8) ^ ((4 * i + lane / 8) % 8)) << 4);
  }
};

// One of the two consumer warpgroups.
template <class Config, class Epilogue>
__device__ __forceinline__ void wide_consume(WideShared<Config>& shared,
                                             const WideMatrices<Config::kSegments>& matrices,
                                             const WideSchedule& schedule,
                                             const typename Epilogue::Params& params, int rank,
                                             int consumer, int warp, int lane) {
  constexpr int kChunks = Config::kChunks;
  constexpr bool kStores = Config::kStore != Store::kNone;
  static_assert(!Epilogue::kInput || Config::kSegments == 1 || Config::kSplitsK);
  const uint8_t* piece = shared.piece[kStores ? consumer * 4 + warp : 0][0];
  const WidePiece view(piece, lane);

  WideRing<Config::kStages> ring;
  for (WideWalk<Config::kCluster> walk(schedule, rank); !walk.done(); walk.next()) {
    const GemmSegment segment =
        wide_segment < Config::kSplitsK ? 1 : Config::kSegments > (schedule, walk.column_tile());
    GemmTileAt at;
    at.row = walk.row_tile() * kTileRows + consumer * kBox;
    at.column = segment.offset * Config::kTileColumns;
    at.segment = segment.index;
    at.warp = warp;
    at.lane = lane;
    at.unit = (walk.unit() * Config::kCluster + rank) * 2 + consumer;
    at.slot =
        ((static_cast<int64_t>(walk.row_tile()) * schedule.column_tiles + walk.column_tile()) * 2 +
         consumer) *
            kWarpgroupThreads +
        warp * 32 + lane;
    Epilogue epilogue(params, at);

    // In memory order.
    const int row = at.row + warp * kPieceRows + lane / 8;
    const int columns = matrices.columns[segment.index];
    const int64_t offset = static_cast<int64_t>(row) * columns + at.column + lane % 8 * 8;
    uint4 input[Epilogue::kInput ? kChunks : 1][4];
    const auto early = [&] {
      if constexpr (Epilogue::kInput) {
        const bf16* from = matrices.input + offset;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            input[c][i] =
                load_global_16(from + c * kBox + i * 4 * columns,
                               row + 4 * i < matrices.rows && at.column + c * kBox < columns);
        }
      }
    };
    const auto late = [&] {
      if constexpr (wide_prepares<Epilogue>()) {
#pragma unroll
        for (int c = kUnprepared; c < kChunks; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            input[c][i] = {Epilogue::prepare(input[c][i].x), Epilogue::prepare(input[c][i].y),
                           Epilogue::prepare(input[c][i].z), Epilogue::prepare(input[c][i].w)};
        }
      }
    };

    float acc[128];
    constexpr bool kLate = wide_prepares<Epilogue>();
    wide_products<Config, kLate>(shared, acc, ring, walk.k_end() - walk.k_begin(), consumer, lane,
                                 early, late);

    if constexpr (!kStores) {
      epilogue.accumulators(acc);
    } else {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int buffer = c % 2;
        if constexpr (Config::kStore == Store::kCopyEngine) {
          // The piece before the last must have left its buffer.
          if (lane == 0) tma_store_wait_read<1>();
          __syncwarp();
        }
        uint32_t in[16];
        if constexpr (Epilogue::kInput) {
#pragma unroll
          for (int i = 0; i < 4; ++i) store_shared_16(view.row_part(buffer, i), input[c][i]);
          __syncwarp();
#pragma unroll
          for (int j = 0; j < 4; ++j)
            load_matrix_x4(view.fragment_part(buffer, j), in[4 * j], in[4 * j + 1], in[4 * j + 2],
                           in[4 * j + 3]);
        }
        float v[32];
#pragma unroll
        for (int i = 0; i < 32; ++i) v[i] = acc[c * 32 + i];
        epilogue.chunk(c, at.row + at.fragment_row(), at.column + c * kBox + at.fragment_column(),
                       v, in);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          store_matrix_x4(view.fragment_part(buffer, j), pack_bf16(v[8 * j], v[8 * j + 1]),
                          pack_bf16(v[8 * j + 2], v[8 * j + 3]),
                          pack_bf16(v[8 * j + 4], v[8 * j + 5]),
                          pack_bf16(v[8 * j + 6], v[8 * j + 7]));
        if constexpr (Config::kStore == Store::kCopyEngine) {
          fence_async_shared();
          __syncwarp();
          if (lane == 0) {
            tma_store_2d(&matrices.c[segment.index], piece + buffer * kPieceBytes,
                         at.column + c * kBox, at.row + warp * kPieceRows);
            tma_store_commit();
          }
        } else {
          __syncwarp();
          bf16* to = matrices.to[segment.index] + offset + c * kBox;
          const bool inside = at.column + c * kBox < columns;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint4 part = load_shared_16(view.row_part(buffer, i));
            if (inside && row + 4 * i < matrices.rows)
              *reinterpret_cast<uint4*>(to + i * 4 * columns) = part;
          }
        }
      }
      epilogue.finish();
    }
  }
  if constexpr (Config::kStore == Store::kCopyEngine) {
    if (lane == 0) tma_store_wait_read<0>();
    __syncwarp();
  }
}

template <class Config, class Epilogue>
__global__ void __cluster_dims__(Config::kCluster, 1, 1) __launch_bounds__(kGemmThreads, 1)
    wide_kernel(const __grid_constant__ WideMatrices<Config::kSegments> matrices,
                const __grid_constant__ WideSchedule schedule,
                const __grid_constant__ typename Epilogue::Params params) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WideShared<Config>*>(shared_bytes);
  const int rank = Config::kCluster == 1 ? 0 : static_cast<int>(cluster_rank());
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    for (int i = 0; i < Config::kStages; ++i) {
      mbarrier_init(&shared.full[i], 1);
      mbarrier_init(&shared.empty[i], Config::kCluster * 8);  // consumer warps of all blocks
    }
    mbarrier_init_fence();
  }
  cluster_sync();

  if (warp < 4) {
    registers_decrease<Config::kProducerRegisters>();
    if (warp == 0 && lane == 0) wide_produce<Config>(shared, matrices, schedule, rank);
    __syncwarp();
  } else {
    registers_increase<Config::kConsumerRegisters>();
    wide_consume<Config, Epilogue>(shared, matrices, schedule, params, rank, warp / 4 - 1, warp % 4,
                                   lane);
  }
  // Another block may still send here, or arrive at barriers here.
  if constexpr (Config::kCluster > 1) cluster_sync();
}

}  // namespace fairway::sm90
