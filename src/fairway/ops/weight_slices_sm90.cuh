// Gradients of matrices on Hopper GPUs, what their kernels share: dW [m, n] is a sum over many
// rows, its tiles of 128 x 256 elements are few. So the rows are cut into slices, a block each for
// every tile, and another kernel adds up the slices' sums in their order. Internal to ops/*_sm90.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {

struct WeightTiles {
  int m, n;  // of dW
  int row_groups, column_tiles, slices;
  int k_blocks;    // of all slices
  float* partial;  // sums of each slice, [slices, m, n] or as the kernel likes
};

// How many clusters have a tile each, in one slice.
inline int weight_tiles(int64_t m, int64_t n) {
  return sm90::wide_ceil_div(m, sm90::kCluster * sm90::kTileRows) *
         sm90::wide_ceil_div(n, sm90::WideConfig<>::kTileColumns);
}
// Slices enough for all of the device's multiprocessors, of `block_rows` rows or more.
inline int weight_slices(int64_t m, int64_t n, int64_t rows, int block_rows, int multiprocessors) {
  return std::clamp(multiprocessors / (sm90::kCluster * weight_tiles(m, n)), 1,
                    std::max(sm90::wide_ceil_div(rows, block_rows), 1));
}

inline WeightTiles make_weight_tiles(int64_t m, int64_t n, int64_t rows, int block_rows, int slices,
                                     float* partial) {
  return {static_cast<int>(m),
          static_cast<int>(n),
          sm90::wide_ceil_div(m, sm90::kCluster * sm90::kTileRows),
          sm90::wide_ceil_div(n, sm90::WideConfig<>::kTileColumns),
          slices,
          sm90::wide_ceil_div(rows, block_rows),
          partial};
}
inline int weight_blocks(const WeightTiles& t) {
  return sm90::kCluster * t.row_groups * t.column_tiles * t.slices;
}

// A block's part.
struct WeightUnit {
  int row_tile, column, slice;
  int begin, end;  // blocks along K

  __device__ __forceinline__ WeightUnit(const WeightTiles& t, int rank) {
    int unit = static_cast<int>(blockIdx.x) / sm90::kCluster;
    column = unit % t.column_tiles * sm90::WideConfig<>::kTileColumns;
    unit /= t.column_tiles;
    row_tile = unit % t.row_groups * sm90::kCluster + rank;
    slice = unit / t.row_groups;
    begin = static_cast<int>(int64_t{t.k_blocks} * slice / t.slices);
    end = static_cast<int>(int64_t{t.k_blocks} * (slice + 1) / t.slices);
  }
};

// The body of such a kernel, of one producer thread and two consumer warpgroups: produce(unit,
// rank) and consume(unit, consumer, warp, lane), warp in the warpgroup.
template <class Config, class Produce, class Consume>
__device__ __forceinline__ void weight_roles(sm90::WideShared<Config>& shared,
                                             const WeightTiles& tiles, Produce&& produce,
                                             Consume&& consume) {
  const int rank = static_cast<int>(sm90::cluster_rank());
  const int warp = sm90::warp_uniform(static_cast<int>(threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) sm90::wide_init(shared);
  sm90::cluster_sync();
  wait_for_earlier_kernels();

  const WeightUnit unit(tiles, rank);
  if (warp < 4) {
    sm90::registers_decrease<40>();
    if (warp == 0 && lane == 0) produce(unit, rank);
    __syncwarp();
  } else {
    sm90::registers_increase<232>();
    consume(unit, warp / 4 - 1, warp % 4, lane);
  }
  // The other block may still send here, or arrive at barriers here.
  sm90::cluster_sync();
}

}  // namespace fairway::cuda
