// The matrix product C = A Bᵀ on Hopper where K is short: a block has 256 columns of C, whose rows
// of B stay in shared memory while row tile after row tile of A goes by. Blocks depend on nobody,
// and within a block the two consumer warpgroups, of 64 rows each, share nothing but B: each has
// stages and a producer warp of its own. They take turns: left to themselves both would multiply at
// the same time, half as fast each, and then both leave the tensor cores idle.
// Neighbouring blocks have the same rows: what they read and write together are whole rows.
//
// Operands, epilogues and an element's bits are those of gemm_wide.cuh; early(c) runs while the
// other consumer multiplies.
#pragma once

#include "fairway/sm90/gemm_wide.cuh"

namespace fairway::sm90 {

template <class element>
struct ResidentConfig {
  using Element = element;
  static constexpr int kBlockK = kBoxWidth<Element>;
  static constexpr int kMaxBlocks = 4;  // along K
  static constexpr int kTileColumns = WideConfig<>::kTileColumns;
  static constexpr int kChunks = WideConfig<>::kChunks;
  static constexpr int kStages = 6;  // of a consumer
  // Consumers wait for all of B before they give a stage back.
  static_assert(kStages >= kMaxBlocks);
  static constexpr int kBytesB = kTileColumns * kBoxRowBytes;
};

template <class Config>
struct alignas(1024) ResidentShared {
  uint8_t b[Config::kMaxBlocks][Config::kBytesB];
  uint8_t a[2][Config::kStages][kBoxBytes];
  uint64_t full[2][Config::kStages], empty[2][Config::kStages];
  uint64_t b_full[Config::kMaxBlocks];
  uint32_t zero;
};

struct ResidentSchedule {
  int column_tiles;
  int chunks;     // of C's columns
  int row_tiles;  // of both consumers
  int row_step;   // from a block's tile to its next one
  int k_blocks;
};

// A block's tiles: its column tile, and its first row tile.
struct ResidentPlace {
  int column_tile, row_tile;

  __device__ __forceinline__ explicit ResidentPlace(const ResidentSchedule& s) {
    row_tile = static_cast<int>(blockIdx.x) / s.column_tiles;
    column_tile = static_cast<int>(blockIdx.x) - row_tile * s.column_tiles;
  }
};

// A stage of a ring of any length.
template <int kStages>
struct StageRing {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// A producer thread: consumer `consumer`'s rows of A; the first one's B for both.
template <class Config>
__device__ __forceinline__ void resident_produce(ResidentShared<Config>& shared,
                                                 const CUtensorMap& a, const CUtensorMap& b,
                                                 const ResidentSchedule& schedule, int consumer) {
  const ResidentPlace place(schedule);
  StageRing<Config::kStages> ring;
  for (int tile = place.row_tile; tile < schedule.row_tiles; tile += schedule.row_step)
    for (int k = 0; k < schedule.k_blocks; ++k) {
      if (consumer == 0 && tile == place.row_tile) {
        uint64_t* full = &shared.b_full[k];
        mbarrier_arrive_expect(full, Config::kBytesB);
#pragma unroll
        for (int i = 0; i < Config::kTileColumns / kBox; ++i)
          tma_load_5d(shared.b[k] + i * kBoxBytes, &b, full, k * Config::kBlockK, 0, 0, 0,
                      (place.column_tile * Config::kTileColumns + i * kBox) / kFragmentRows);
      }
      mbarrier_wait(&shared.empty[consumer][ring.stage], ring.parity ^ 1);
      uint64_t* full = &shared.full[consumer][ring.stage];
      mbarrier_arrive_expect(full, kBoxBytes);
      tma_load_2d(shared.a[consumer][ring.stage], &a, full, k * Config::kBlockK,
                  tile * kTileRows + consumer * kBox);
      ring.next();
    }
}

template <class Config, class Epilogue>
__device__ __forceinline__ void resident_consume(ResidentShared<Config>& shared,
                                                 const ResidentSchedule& schedule,
                                                 const typename Epilogue::Params& params,
                                                 int consumer, int lane) {
  const ResidentPlace place(schedule);
  const int chunks = schedule.chunks - place.column_tile * Config::kChunks;
  for (int k = 0; k < schedule.k_blocks; ++k) mbarrier_wait(&shared.b_full[k], 0);
  const auto turn = [](int of) { return 1 + of; };
  // The last turn of all is left to nobody: a kernel may end so.
  if (consumer == 1) named_barrier_arrive(turn(0), 2 * kWarpgroupThreads);
  StageRing<Config::kStages> ring;
  for (int tile = place.row_tile; tile < schedule.row_tiles; tile += schedule.row_step) {
    const int thread = consumer_thread();
    GemmTileAt at;
    at.row = tile * kTileRows + thread / 32 * 16 + thread % 32 / 4;
    at.row_end = INT32_MAX;
    at.column = place.column_tile * Config::kTileColumns + thread % 4 * 8;
    at.slot = (static_cast<int64_t>(tile) * schedule.column_tiles + place.column_tile) *
                  (2 * kWarpgroupThreads) +
              thread;
    Epilogue epilogue(params, at);
#pragma unroll
    for (int c = 0; c < Config::kChunks; ++c) epilogue.early(c);

    named_barrier_sync(turn(consumer), 2 * kWarpgroupThreads);
    float acc[128];
    int previous = 0;
    const auto release = [&](int stage) {
      if (lane == 0) mbarrier_arrive(&shared.empty[consumer][stage]);
    };
    for (int k = 0; k < schedule.k_blocks; ++k) {
      mbarrier_wait(&shared.full[consumer][ring.stage], ring.parity);
      wide_issue_block<typename Config::Element>(acc, shared.a[consumer][ring.stage], shared.b[k],
                                                 k > 0);
      if (k > 0) {
        wgmma_wait<1>();
        release(previous);
      }
      previous = ring.stage;
      ring.next();
    }
    named_barrier_arrive(turn(1 - consumer), 2 * kWarpgroupThreads);
    wgmma_wait<0>();
    wgmma_pin(acc);
    release(previous);
    run_epilogue(epilogue, acc, chunks, shared.zero);
  }
}

template <class Config, class Epilogue>
__global__ void __launch_bounds__(kGemmThreads, 1)
    resident_kernel(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
                    const __grid_constant__ ResidentSchedule schedule,
                    const __grid_constant__ typename Epilogue::Params params) {
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<ResidentShared<Config>*>(shared_bytes);
  const int warp = warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int c = 0; c < 2; ++c)
      for (int i = 0; i < Config::kStages; ++i) {
        mbarrier_init(&shared.full[c][i], 1);
        mbarrier_init(&shared.empty[c][i], 4);  // warps
      }
    for (int k = 0; k < Config::kMaxBlocks; ++k) mbarrier_init(&shared.b_full[k], 1);
    mbarrier_init_fence();
    shared.zero = 0;
  }
  __syncthreads();
  wait_for_earlier_kernels();

  if (warp < 4) {
    registers_decrease<24>();
    if (warp < 2 && lane == 0) resident_produce<Config>(shared, a, b, schedule, warp);
  } else {
    registers_increase<240>();
    resident_consume<Config, Epilogue>(shared, schedule, params, warp / 4 - 1, lane);
  }
}

}  // namespace fairway::sm90
