// The matrix product C = A B on Hopper with 128 x 256 tiles: persistent clusters of blocks, a
// producer warp that feeds shared memory through the bulk tensor copy engine, two consumer
// warpgroups of 64 rows each, and an epilogue fused between the accumulators and C.
//
// A is [M, K] in bf16, contiguous along K; B is [K, N], contiguous along either axis; sums are
// float, along K in order; an element's bits depend on its row of A, its column of B and the
// configuration alone. K may run through several segments, each with an A and a B of its own.
//
// The consumers share every stage but nothing else: while one is in its epilogue the other has the
// tensor cores to itself, as far as the stages let it lag. An epilogue's length is what counts, so
// it never waits for another warp: each warp turns its 16 x 64 pieces around in two buffers of its
// own, from where the copy engine takes them.
//
// An epilogue is a class:
//   struct Params                        passed to the kernel
//   static constexpr bool kInput         whether it reads a bf16 matrix shaped as C
//   Epilogue(params, at)                 before the tile's products: the place for early loads
//   chunk(c, v, in)                      turns 64 x 64 accumulators into C, v[4j + 2h + e] with the
//                                        input e of the pair in[2j + h]
//   finish()                             after the last chunk
#pragma once

#include <cuda_bf16.h>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/sm90/cluster.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/gemm_tile.cuh"
#include "fairway/sm90/matrix_move.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"
#include "fairway/sm90/wgmma.cuh"

namespace fairway::sm90 {

// Blocks of a cluster have the same columns: each loads its part of a block of B and sends it to
// all.
constexpr int kCluster = 2;

template <Major major_b, int segments = 1>
struct WideConfig {
  static constexpr Major kMajorB = major_b;
  static constexpr int kSegments = segments;
  static constexpr int kTileColumns = 256;
  static constexpr int kStages = 4;
  static constexpr int kChunks = kTileColumns / kBox;  // 64 x 64 each, beside each other
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
  uint8_t piece[8][2][kPieceBytes];  // of each consumer warp
  uint64_t full[Config::kStages], empty[Config::kStages];
};

template <int kSegments>
struct WideMatrices {
  CUtensorMap a[kSegments], b[kSegments];  // boxes of 64 x 64
  CUtensorMap c;                           // boxes of 16 rows x 64
  const bf16* input;                       // what the epilogue reads, shaped as C
  int rows, columns;                       // of C
};

struct WideSchedule {
  int column_tiles;
  int row_groups;  // a row tile per block of the cluster
  int k_blocks;    // blocks of 64 along K
  // The block where each segment begins.
  int segment_begin[kMaxSegments] = {0, INT32_MAX, INT32_MAX};
};

template <int kSegments>
__device__ __forceinline__ GemmSegment wide_segment(const WideSchedule& schedule, int block) {
  if constexpr (kSegments == 1) {
    return {0, block};
  } else {
    const int second = schedule.segment_begin[1], third = schedule.segment_begin[2];
    const int index = (block >= second) + (block >= third);
    return {index, block - (index == 0 ? 0 : index == 1 ? second : third)};
  }
}

// The tiles of this block, in order; all roles of the block walk the same list. Divides only at the
// start: the steps from tile to tile lie between a consumer's tiles.
class WideWalk {
 public:
  __device__ __forceinline__ WideWalk(const WideSchedule& schedule, int rank)
      : schedule_(schedule), rank_(rank) {
    const int columns = schedule.column_tiles;
    const int stride = static_cast<int>(gridDim.x) / kCluster;
    rows_stride_ = stride / columns;
    columns_stride_ = stride - rows_stride_ * columns;
    const int unit = static_cast<int>(blockIdx.x) / kCluster;
    row_group_ = unit / columns;
    column_tile_ = unit - row_group_ * columns;
  }
  __device__ __forceinline__ bool done() const { return row_group_ >= schedule_.row_groups; }
  __device__ __forceinline__ void next() {
    column_tile_ += columns_stride_;
    row_group_ += rows_stride_;
    if (column_tile_ >= schedule_.column_tiles) {
      column_tile_ -= schedule_.column_tiles;
      ++row_group_;
    }
  }
  __device__ __forceinline__ int row_tile() const { return row_group_ * kCluster + rank_; }
  __device__ __forceinline__ int column_tile() const { return column_tile_; }

 private:
  const WideSchedule& schedule_;
  int rank_, rows_stride_, columns_stride_;
  int row_group_, column_tile_;
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
  constexpr int kBoxesB = Config::kTileColumns / kBox / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  uint64_t* full = &shared.full[stage];
  mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
#pragma unroll
  for (int i = 0; i < kTileRows / kBox; ++i) {
    tma_load_2d(shared.a[stage] + i * kBoxBytes, map_a, full, k, row + i * kBox);
  }
#pragma unroll
  for (int i = 0; i < kBoxesB; ++i) {
    const int box = rank * kBoxesB + i;
    uint8_t* to = shared.b[stage] + box * kBoxBytes;
    const int at = column + box * kBox;
    const int x = Config::kMajorB == Major::kK ? k : at, y = Config::kMajorB == Major::kK ? at : k;
    tma_load_2d_multicast(to, map_b, full, x, y, kAll);
  }
}

// The producer thread.
template <class Config>
__device__ __forceinline__ void wide_produce(WideShared<Config>& shared,
                                             const WideMatrices<Config::kSegments>& matrices,
                                             const WideSchedule& schedule, int rank) {
  WideRing<Config::kStages> ring;
  for (WideWalk walk(schedule, rank); !walk.done(); walk.next()) {
    const int row = walk.row_tile() * kTileRows;
    const int column = walk.column_tile() * Config::kTileColumns;
    for (int k = 0; k < schedule.k_blocks; ++k) {
      const GemmSegment block = wide_segment<Config::kSegments>(schedule, k);
      mbarrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
      wide_load<Config>(shared, ring.stage, &matrices.a[block.index], &matrices.b[block.index], row,
                        column, block.offset * kBlockK, rank);
      ring.next();
    }
  }
}

// acc (+)= a block of A times a block of B: issues and commits, without waiting.
template <class Config>
__device__ __forceinline__ void wide_issue_block(float (&acc)[128], const uint8_t* a,
                                                 const uint8_t* b, bool accumulate) {
  constexpr int kTransA = 0, kTransB = Config::kMajorB == Major::kMN;
  constexpr uint32_t kStepA = 32, kStepB = kTransB ? 2048 : 32;
  const uint32_t at_b = shared_address(b);
  const uint64_t desc_a = wgmma_descriptor_k(shared_address(a));
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
  if (lane < kCluster) mbarrier_arrive_cluster(&shared.empty[stage], static_cast<uint32_t>(lane));
}

// The products of one consumer's tile. `early` runs once the first block is issued.
template <class Config, class Early>
__device__ __forceinline__ void wide_products(WideShared<Config>& shared, float (&acc)[128],
                                              WideRing<Config::kStages>& ring, int blocks,
                                              int consumer, int lane, const Early& early) {
  const auto issue = [&](bool accumulate) {
    mbarrier_wait(&shared.full[ring.stage], ring.parity);
    wide_issue_block<Config>(acc, shared.a[ring.stage] + consumer * kBoxBytes, shared.b[ring.stage],
                             accumulate);
  };
  issue(false);
  early();
  int previous = ring.stage;
  ring.next();
  for (int k = 1; k < blocks; ++k) {
    issue(true);
    wgmma_wait<1>();
    wide_release(shared, previous, lane);
    previous = ring.stage;
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_pin(acc);
  wide_release(shared, previous, lane);
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
  const uint8_t* piece = shared.piece[consumer * 4 + warp][0];
  const WidePiece view(piece, lane);

  WideRing<Config::kStages> ring;
  for (WideWalk walk(schedule, rank); !walk.done(); walk.next()) {
    GemmTileAt at;
    at.row = walk.row_tile() * kTileRows + consumer * kBox;
    at.column = walk.column_tile() * Config::kTileColumns;
    at.slot =
        ((static_cast<int64_t>(walk.row_tile()) * schedule.column_tiles + walk.column_tile()) * 2 +
         consumer) *
            kWarpgroupThreads +
        warp * 32 + lane;
    Epilogue epilogue(params, at);

    // In memory order.
    const int row = at.row + warp * kPieceRows + lane / 8;
    uint4 input[Epilogue::kInput ? kChunks : 1][4];
    const auto early = [&] {
      if constexpr (Epilogue::kInput) {
        const int columns = matrices.columns;
        const bf16* from =
            matrices.input + static_cast<int64_t>(row) * columns + at.column + lane % 8 * 8;
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

    float acc[128];
    wide_products<Config>(shared, acc, ring, schedule.k_blocks, consumer, lane, early);

#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int buffer = c % 2;
      // The piece before the last must have left its buffer.
      if (lane == 0) tma_store_wait_read<1>();
      __syncwarp();
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
      epilogue.chunk(c, v, in);
#pragma unroll
      for (int j = 0; j < 4; ++j)
        store_matrix_x4(view.fragment_part(buffer, j), pack_bf16(v[8 * j], v[8 * j + 1]),
                        pack_bf16(v[8 * j + 2], v[8 * j + 3]),
                        pack_bf16(v[8 * j + 4], v[8 * j + 5]),
                        pack_bf16(v[8 * j + 6], v[8 * j + 7]));
      fence_async_shared();
      __syncwarp();
      if (lane == 0) {
        tma_store_2d(&matrices.c, piece + buffer * kPieceBytes, at.column + c * kBox,
                     at.row + warp * kPieceRows);
        tma_store_commit();
      }
    }
    epilogue.finish();
  }
  if (lane == 0) tma_store_wait_read<0>();
  __syncwarp();
}

template <class Config, class Epilogue>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kGemmThreads, 1)
    wide_kernel(const __grid_constant__ WideMatrices<Config::kSegments> matrices,
                const __grid_constant__ WideSchedule schedule,
                const __grid_constant__ typename Epilogue::Params params) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WideShared<Config>*>(shared_bytes);
  const int rank = static_cast<int>(cluster_rank());
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) {
    for (int i = 0; i < Config::kStages; ++i) {
      mbarrier_init(&shared.full[i], 1);
      mbarrier_init(&shared.empty[i], kCluster * 8);  // consumer warps of all blocks
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
  cluster_sync();
}

}  // namespace fairway::sm90
