// The matrix product C = A B on Hopper: persistent clusters of two blocks, a producer warp that
// feeds shared memory through the bulk tensor copy engine, two consumer warpgroups on the tensor
// cores, and an epilogue fused between the accumulators and C.
//
// A is [M, K] and B is [K, N] in bf16, each contiguous along either axis; sums are float, along K
// in order; an element's bits depend on its row of A, its column of B and the configuration alone.
//
// An epilogue is a class:
//   struct Params                        passed to the kernel
//   static constexpr bool kInput         whether it reads a bf16 matrix shaped as C (maps.input)
//   Epilogue(params, at)                 before the tile's products: the place for early loads
//   chunk(c, row, column, v, in)         turns 64 x 64 accumulators into C: v[4j + 2h + e] is
//                                        (row + 8h, column + 8j + e); in[2j + h] packs the inputs
//   finish()                             after the last chunk
// With Config::kStore false nothing goes to C; in place of the last two there is
//   accumulators(acc)                    all accumulators of the consumer's (streamed) tile
#pragma once

#include "fairway/sm90/cluster.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/gemm_tile.cuh"
#include "fairway/sm90/matrix_move.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tma.cuh"
#include "fairway/sm90/warpgroup.cuh"
#include "fairway/sm90/wgmma.cuh"

namespace fairway::sm90 {

constexpr uint16_t kBothBlocks = 0b11;

// Named barriers: each consumer's own, and its turn at the tensor cores.
constexpr int kConsumerBarrier = 1;
constexpr int kTurnBarrier = 3;

// A place in the ring of stages.
template <int kStages>
struct GemmRing {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  __device__ __forceinline__ void skip(int blocks) {
    const int at = stage + blocks;
    parity ^= static_cast<uint32_t>(at / kStages) & 1;
    stage = at % kStages;
  }
};

template <class Config>
__device__ __forceinline__ void gemm_init_barriers(GemmShared<Config>& shared) {
  constexpr int kConsumerWarps = 4 * Config::kConsumersPerTile;
  for (int i = 0; i < Config::kStages; ++i) {
    mbarrier_init(&shared.full[i], 1);
    mbarrier_init(&shared.empty[i], 2 * kConsumerWarps);  // of both blocks
  }
  for (int i = 0; i < Config::kBlocksA; ++i) {
    mbarrier_init(&shared.a_full[i], 1);
    mbarrier_init(&shared.a_empty[i], 2 * kConsumerWarps);  // see gemm_arrivals_a
  }
  for (uint64_t& bar : shared.chunk_ready) mbarrier_init(&bar, 1);
  mbarrier_init_fence();
}

// One block of A for this block's rows: boxes of 64 rows (or 64 columns of the transposed matrix).
template <class Config>
__device__ __forceinline__ void gemm_load_a(uint8_t* to, const CUtensorMap* map, uint64_t* bar,
                                            int row, int k) {
#pragma unroll
  for (int i = 0; i < kTileRows / kBox; ++i) {
    const int at = row + i * kBox;
    if constexpr (Config::kMajorA == Major::kK)
      tma_load_2d(to + i * kBoxBytes, map, bar, k, at);
    else
      tma_load_2d(to + i * kBoxBytes, map, bar, at, k);
  }
}

// This block's half of a block of B, to both blocks of the cluster.
template <class Config>
__device__ __forceinline__ void gemm_load_b(uint8_t* to, const CUtensorMap* map, uint64_t* bar,
                                            int column, int k, int rank) {
  constexpr int kBoxes = Config::kTileColumns / kBox / 2;
#pragma unroll
  for (int i = 0; i < kBoxes; ++i) {
    const int box = rank * kBoxes + i;
    const int at = column + box * kBox;
    if constexpr (Config::kMajorB == Major::kK)
      tma_load_2d_multicast(to + box * kBoxBytes, map, bar, k, at, kBothBlocks);
    else
      tma_load_2d_multicast(to + box * kBoxBytes, map, bar, at, k, kBothBlocks);
  }
}

template <class Config>
__device__ __forceinline__ void gemm_prefetch_a(const CUtensorMap* map, int row, int k) {
#pragma unroll
  for (int i = 0; i < kTileRows / kBox; ++i) {
    const int at = row + i * kBox;
    if constexpr (Config::kMajorA == Major::kK)
      tma_prefetch_2d(map, k, at);
    else
      tma_prefetch_2d(map, at, k);
  }
}

// The producer thread.
template <class Config>
__device__ __forceinline__ void gemm_produce(GemmShared<Config>& shared,
                                             const GemmMaps<Config::kSegments>& maps,
                                             const GemmSchedule& schedule, int rank) {
  GemmRing<Config::kStages> ring;
  for (GemmWalk walk(schedule, rank); !walk.done(); walk.next()) {
    const int row = walk.row_tile() * kTileRows;
    if constexpr (Config::kResident) {
      const GemmSegment segment = gemm_segment<Config::kSegments>(schedule, walk.column_tile());
      const int column = segment.offset * Config::kTileColumns;
      GemmWalk following = walk;
      following.next_unit();
      const bool prefetch = walk.last_of_unit() && !following.done();
      const int row_following = following.row_tile() * kTileRows;
      for (int k = 0; k < schedule.k_blocks; ++k) {
        if (walk.first_of_unit()) {
          mbarrier_wait(&shared.a_empty[k], ~walk.unit_index() & 1);
          mbarrier_arrive_expect(&shared.a_full[k], Config::kBytesA);
          gemm_load_a<Config>(shared.a[k], &maps.a[0], &shared.a_full[k], row, k * kBlockK);
        }
        mbarrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
        mbarrier_arrive_expect(&shared.full[ring.stage], Config::kBytesB);
        gemm_load_b<Config>(shared.b[ring.stage], &maps.b[segment.index], &shared.full[ring.stage],
                            column, k * kBlockK, rank);
        if (prefetch) gemm_prefetch_a<Config>(&maps.a[0], row_following, k * kBlockK);
        ring.next();
      }
    } else {
      const int column = walk.column_tile() * Config::kTileColumns;
      for (int k = walk.k_begin(); k < walk.k_end(); ++k) {
        const GemmSegment segment = gemm_segment<Config::kSegments>(schedule, k);
        uint64_t* full = &shared.full[ring.stage];
        mbarrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
        mbarrier_arrive_expect(full, Config::kBytesA + Config::kBytesB);
        gemm_load_a<Config>(shared.a[ring.stage], &maps.a[segment.index], full, row,
                            segment.offset * kBlockK);
        gemm_load_b<Config>(shared.b[ring.stage], &maps.b[segment.index], full, column,
                            segment.offset * kBlockK, rank);
        ring.next();
      }
    }
  }
}

template <class Config>
using GemmAccumulators = float[Config::kFragments][Config::kFragmentColumns / 2];

// acc (+)= a block of A times a block of B: issues and commits, without waiting.
template <class Config>
__device__ __forceinline__ void gemm_issue_block(GemmAccumulators<Config>& acc, const uint8_t* a,
                                                 const uint8_t* b, bool accumulate) {
  constexpr int kTransA = Config::kMajorA == Major::kMN, kTransB = Config::kMajorB == Major::kMN;
  constexpr uint32_t kStepA = kTransA ? 2048 : 32, kStepB = kTransB ? 2048 : 32;
  const uint32_t at_a = shared_address(a), at_b = shared_address(b);
  const uint64_t desc_a = kTransA ? wgmma_descriptor_mn(at_a, kBoxBytes) : wgmma_descriptor_k(at_a);
  const uint64_t desc_b = kTransB ? wgmma_descriptor_mn(at_b, kBoxBytes) : wgmma_descriptor_k(at_b);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kBlockK / 16; ++step) {
    const bool add = accumulate || step > 0;
#pragma unroll
    for (int f = 0; f < Config::kFragments; ++f) {
      const uint64_t da = wgmma_advance(desc_a, f * kBoxBytes + step * kStepA);
      const uint64_t db = wgmma_advance(desc_b, step * kStepB);
      if constexpr (Config::kFragmentColumns == 128)
        wgmma_m64n128k16<kTransA, kTransB>(acc[f], da, db, add);
      else
        wgmma_m64n256k16<kTransA, kTransB>(acc[f], da, db, add);
    }
  }
  wgmma_commit();
}

// Hands a stage back to the producers of both blocks: one arrival per warp and block.
template <class Config>
__device__ __forceinline__ void gemm_release(GemmShared<Config>& shared, int stage, int lane) {
  if (lane < 2) mbarrier_arrive_cluster(&shared.empty[stage], static_cast<uint32_t>(lane));
}

// Resident: how often each warp hands a block of A back during this tile. Both of a unit's last two
// tiles do, one per consumer: the later one's products may finish before the earlier one's. The
// only tile of a unit stands in for both.
__device__ __forceinline__ uint32_t gemm_arrivals_a(const GemmWalk& walk) {
  if (walk.last_of_unit()) return walk.first_of_unit() ? 2 : 1;
  return walk.second_to_last_of_unit() ? 1 : 0;
}

// The products of one tile. Resident: waits for the consumer's turn and passes it on as soon as the
// last block is issued, so that the tensor cores always have work queued.
template <class Config>
__device__ __forceinline__ void gemm_tile_products(GemmShared<Config>& shared,
                                                   GemmAccumulators<Config>& acc,
                                                   GemmRing<Config::kStages>& ring,
                                                   const GemmWalk& walk, int blocks, int consumer,
                                                   int lane) {
  constexpr bool kResident = Config::kResident;
  const uint32_t a_parity = walk.unit_index() & 1;
  const uint32_t arrivals_a = kResident && lane == 0 ? gemm_arrivals_a(walk) : 0;
  if constexpr (kResident) named_barrier_sync(kTurnBarrier + consumer, 2 * kWarpgroupThreads);
  int previous = 0;
  for (int k = 0; k < blocks; ++k) {
    if constexpr (kResident) mbarrier_wait(&shared.a_full[k], a_parity);
    mbarrier_wait(&shared.full[ring.stage], ring.parity);
    const uint8_t* a = kResident ? shared.a[k] : shared.a[ring.stage] + consumer * kBoxBytes;
    gemm_issue_block<Config>(acc, a, shared.b[ring.stage], k > 0);
    if constexpr (kResident) {
      if (k + 1 == blocks)
        named_barrier_arrive(kTurnBarrier + (consumer ^ 1), 2 * kWarpgroupThreads);
    }
    if (k > 0) {
      wgmma_wait<1>();
      gemm_release(shared, previous, lane);
      if (arrivals_a > 0) mbarrier_arrive_count(&shared.a_empty[k - 1], arrivals_a);
    }
    previous = ring.stage;
    ring.next();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int f = 0; f < Config::kFragments; ++f) wgmma_pin(acc[f]);
  gemm_release(shared, previous, lane);
  if (arrivals_a > 0) mbarrier_arrive_count(&shared.a_empty[blocks - 1], arrivals_a);
}

// Makes the chunk buffers ready for a tile of consumer `reader`, each once the stores issued by this
// thread no longer read it: loads the epilogue's input, or just marks the buffer free.
template <class Config, class Epilogue>
__device__ __forceinline__ void gemm_ready_chunks(GemmShared<Config>& shared,
                                                  const GemmMaps<Config::kSegments>& maps,
                                                  const GemmWalk& walk, int consumer, int reader) {
  static_assert(Config::kChunks == 4);
  const int first_buffer = Config::kResident ? 0 : consumer * Config::kChunks;
  const int row = walk.row_tile() * kTileRows + (Config::kResident ? 0 : consumer * kBox);
  const int column = walk.column_tile() * Config::kTileColumns;
  const bool done = walk.done();
#pragma unroll
  for (int c = 0; c < Config::kChunks; ++c) {
    if (c == 0) tma_store_wait_read<3>();
    if (c == 1) tma_store_wait_read<2>();
    if (c == 2) tma_store_wait_read<1>();
    if (c == 3) tma_store_wait_read<0>();
    if (done) continue;
    uint64_t* bar = &shared.chunk_ready[reader * Config::kChunks + c];
    if constexpr (Epilogue::kInput) {
      mbarrier_arrive_expect(bar, kBoxBytes);
      tma_load_2d(shared.chunk[first_buffer + c], &maps.input, bar,
                  column + c % Config::kChunksAcross * kBox,
                  row + c / Config::kChunksAcross * kBox);
    } else {
      mbarrier_arrive(bar);
    }
  }
}

// Whether this is the consumer's thread that issues copies. Reads the thread index anew each time:
// registers are scarce where it is asked.
__device__ __forceinline__ bool gemm_leader() {
  uint32_t thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread % kWarpgroupThreads == 0;
}

// One of the two consumer warpgroups.
template <class Config, class Epilogue>
__device__ __forceinline__ void gemm_consume(GemmShared<Config>& shared,
                                             const GemmMaps<Config::kSegments>& maps,
                                             const GemmSchedule& schedule,
                                             const typename Epilogue::Params& params, int rank,
                                             int consumer, int warp, int lane) {
  constexpr bool kResident = Config::kResident;
  constexpr int kAcross = Config::kChunksAcross;
  static_assert(!Epilogue::kInput || !kResident || Config::kSegments == 1);
  // Resident: both consumers share the chunk buffers, in turn. Streamed: each has its own.
  const int first_buffer = kResident ? 0 : consumer * Config::kChunks;
  const int rows_above = kResident ? 0 : consumer * kBox;

  // This lane's row address for stmatrix and ldmatrix: lanes 0-7 and 8-15 are the two row halves of
  // one 8-column matrix, 16-31 those of the next.
  const int lane_row = warp * 16 + lane % 16;
  const uint32_t lane_offset = static_cast<uint32_t>(lane_row) * 128;
  const uint32_t lane_half = static_cast<uint32_t>(lane) / 16;
  const uint32_t lane_swizzle = static_cast<uint32_t>(lane) % 8;

  GemmWalk walk(schedule, rank);
  if (Config::kStore && gemm_leader() && (!kResident || consumer == 0))
    gemm_ready_chunks<Config, Epilogue>(shared, maps, walk, consumer, consumer);
  __syncwarp();

  GemmRing<Config::kStages> ring;
  // The first turn is consumer 0's.
  if (kResident && consumer == 1) named_barrier_arrive(kTurnBarrier, 2 * kWarpgroupThreads);
  for (uint32_t tile = 0; !walk.done(); ++tile, walk.next()) {
    const int blocks = kResident ? schedule.k_blocks : walk.k_end() - walk.k_begin();
    if (kResident && static_cast<int>(tile & 1) != consumer) {
      ring.skip(blocks);
      continue;
    }
    const GemmSegment segment =
        gemm_segment < kResident ? Config::kSegments : 1 > (schedule, walk.column_tile());
    GemmTileAt at;
    at.row = walk.row_tile() * kTileRows + rows_above;
    at.column = segment.offset * Config::kTileColumns;
    at.segment = segment.index;
    at.warp = warp;
    at.lane = lane;
    at.unit = (walk.unit() * 2 + rank) * 2 + consumer;
    at.slot = (static_cast<int64_t>(walk.row_tile()) * schedule.column_tiles + walk.column_tile()) *
                  Config::kConsumersPerTile +
              (kResident ? 0 : consumer);
    at.slot = at.slot * kWarpgroupThreads + warp * 32 + lane;
    Epilogue epilogue(params, at);

    GemmAccumulators<Config> acc;
    gemm_tile_products<Config>(shared, acc, ring, walk, blocks, consumer, lane);

    if constexpr (!Config::kStore) {
      epilogue.accumulators(acc[0]);
    } else {
#pragma unroll
      for (int c = 0; c < Config::kChunks; ++c) {
        uint8_t* buffer = shared.chunk[first_buffer + c];
        const uint32_t rows = shared_address(buffer) + lane_offset;
        // Each consumer has barriers of its own: a wait tells two phases apart, not three.
        mbarrier_wait(&shared.chunk_ready[consumer * Config::kChunks + c],
                      (kResident ? tile / 2 : tile) & 1);
        uint32_t in[16];
        if constexpr (Epilogue::kInput) {
#pragma unroll
          for (uint32_t j = 0; j < 4; ++j)
            load_matrix_x4(rows + (((2 * j + lane_half) ^ lane_swizzle) << 4), in[4 * j],
                           in[4 * j + 1], in[4 * j + 2], in[4 * j + 3]);
        }
        float v[32];
#pragma unroll
        for (int i = 0; i < 32; ++i) v[i] = acc[c / kAcross][c % kAcross * 32 + i];
        epilogue.chunk(c, at.row + c / kAcross * kBox + at.fragment_row(),
                       at.column + c % kAcross * kBox + at.fragment_column(), v, in);
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j)
          store_matrix_x4(rows + (((2 * j + lane_half) ^ lane_swizzle) << 4),
                          pack_bf16(v[8 * j], v[8 * j + 1]), pack_bf16(v[8 * j + 2], v[8 * j + 3]),
                          pack_bf16(v[8 * j + 4], v[8 * j + 5]),
                          pack_bf16(v[8 * j + 6], v[8 * j + 7]));
        fence_async_shared();
        named_barrier_sync(kConsumerBarrier + consumer, kWarpgroupThreads);
        if (gemm_leader()) {
          tma_store_2d(&maps.c[kResident ? segment.index : 0], buffer,
                       at.column + c % kAcross * kBox, at.row + c / kAcross * kBox);
          tma_store_commit();
        }
        __syncwarp();
      }
      epilogue.finish();
      if (gemm_leader()) {
        GemmWalk following = walk;
        following.next();
        gemm_ready_chunks<Config, Epilogue>(shared, maps, following, consumer,
                                            kResident ? consumer ^ 1 : consumer);
      }
      __syncwarp();
    }
  }
}

template <class Config, class Epilogue>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kGemmThreads, 1)
    gemm_kernel(const __grid_constant__ GemmMaps<Config::kSegments> maps,
                const __grid_constant__ GemmSchedule schedule,
                const __grid_constant__ typename Epilogue::Params params) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<GemmShared<Config>*>(shared_bytes);
  const int rank = static_cast<int>(cluster_rank());
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;

  if (threadIdx.x == 0) gemm_init_barriers(shared);
  cluster_sync();

  if (warp < 4) {
    registers_decrease<40>();
    if (warp == 0 && lane == 0) gemm_produce<Config>(shared, maps, schedule, rank);
    __syncwarp();
  } else {
    registers_increase<232>();
    gemm_consume<Config, Epilogue>(shared, maps, schedule, params, rank, warp / 4 - 1, warp % 4,
                                   lane);
  }
  // The other block may still send here, or arrive at barriers here.
  cluster_sync();
}

}  // namespace fairway::sm90
