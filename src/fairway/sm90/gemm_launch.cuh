// Host side of the matrix product: schedules and launches.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "fairway/sm90/cuda_check.h"
#include "fairway/sm90/gemm.cuh"

namespace fairway::sm90 {

inline int ceil_div(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

// How many clusters of the kernel the current device runs at once; prepares the kernel for it.
template <class Config, class Epilogue>
int gemm_clusters() {
  constexpr int kMaxDevices = 64;
  static std::atomic<int> known[kMaxDevices];
  int device = 0;
  cuda_require(cudaGetDevice(&device), "cudaGetDevice");
  launch_require(device < kMaxDevices, "too many devices");
  int clusters = known[device].load(std::memory_order_relaxed);
  if (clusters > 0) return clusters;

  const auto kernel = &gemm_kernel<Config, Epilogue>;
  constexpr int kBytes = sizeof(GemmShared<Config>);
  static_assert(kBytes <= 232448, "shared memory of a block");
  cuda_require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
               "shared memory of the matrix product");
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = 2;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = 2;
  config.blockDim = kGemmThreads;
  config.dynamicSmemBytes = kBytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  cuda_require(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config),
               "clusters of the matrix product");
  launch_require(clusters > 0, "the matrix product needs a Hopper GPU of which no part is taken");
  known[device].store(clusters, std::memory_order_relaxed);
  return clusters;
}

// All of [rows, columns]; `column_tiles` counts those of all segments. Picks the units so that the
// last round of clusters leaves few idle.
template <class Config>
GemmSchedule gemm_schedule(int64_t rows, int column_tiles, int k_blocks, int clusters) {
  GemmSchedule schedule{};
  schedule.row_pairs = ceil_div(rows, 2 * kTileRows);
  schedule.column_tiles = column_tiles;
  schedule.k_blocks = schedule.k_blocks_per_split = k_blocks;
  schedule.tiles_per_unit = 1;
  if (Config::kResident) {
    constexpr double kLoadA = 0.5;  // what a unit costs beyond its tiles, in tiles
    double best = 0;
    for (int tiles = 1; tiles <= column_tiles; ++tiles) {
      const int units = schedule.row_pairs * ceil_div(column_tiles, tiles);
      const double cost = ceil_div(units, clusters) * (tiles + kLoadA);
      if (tiles == 1 || cost <= best) {
        best = cost;
        schedule.tiles_per_unit = tiles;
      }
    }
  }
  schedule.groups = ceil_div(column_tiles, schedule.tiles_per_unit);
  schedule.units = schedule.row_pairs * schedule.groups;
  return schedule;
}

template <class Config, class Epilogue>
void gemm_launch(cudaStream_t stream, const GemmMaps<Config::kSegments>& maps,
                 const GemmSchedule& schedule, const typename Epilogue::Params& params) {
  const int clusters = gemm_clusters<Config, Epilogue>();
  const int blocks = 2 * (schedule.units < clusters ? schedule.units : clusters);
  gemm_kernel<Config, Epilogue>
      <<<blocks, kGemmThreads, sizeof(GemmShared<Config>), stream>>>(maps, schedule, params);
  cuda_require(cudaGetLastError(), "launch of a matrix product");
}

}  // namespace fairway::sm90
