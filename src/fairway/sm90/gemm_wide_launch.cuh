// Host side of the matrix product with 128 x 256 tiles: schedules and launches.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/sm90/gemm_wide.cuh"

namespace fairway::sm90 {

inline int wide_ceil_div(int64_t a, int64_t b) {
  return static_cast<int>((a + b - 1) / b);
}

// How many clusters of the kernel the current device runs at once; prepares the kernel for it.
template <class Config, class Epilogue>
int wide_clusters() {
  constexpr int kMaxDevices = 64;
  static std::atomic<int> known[kMaxDevices];
  int device = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  require(device < kMaxDevices, "too many devices");
  int clusters = known[device].load(std::memory_order_relaxed);
  if (clusters > 0) return clusters;

  const auto kernel = &wide_kernel<Config, Epilogue>;
  constexpr int kBytes = sizeof(WideShared<Config>);
  static_assert(kBytes <= 232448, "shared memory of a block");
  allow_shared(kernel, kBytes);
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = kCluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = kCluster;
  config.blockDim = kGemmThreads;
  config.dynamicSmemBytes = kBytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  cuda_check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config),
             "clusters of the matrix product");
  require(clusters > 0, "the matrix product needs a Hopper GPU of which no part is taken");
  known[device].store(clusters, std::memory_order_relaxed);
  return clusters;
}

// C [m, n] of the widths of B's parts; `k_blocks`: of all of A's. With adapters, m is kTileRows
// times the length of the list of row tiles, and each of B's matrices begins at a multiple of a
// tile's columns.
template <class Config, class Epilogue>
void wide_launch(cudaStream_t stream, const WideMatrices<Config>& matrices, int64_t m, int64_t n,
                 WideSchedule schedule, const typename Epilogue::Params& params,
                 const WideAdapters<Config>& adapters = {}) {
  schedule.row_groups = wide_ceil_div(m, kCluster * kTileRows);
  schedule.column_tiles = wide_ceil_div(n, Config::kTileColumns);
  schedule.chunks = wide_ceil_div(n, kBox);
  const int clusters = wide_clusters<Config, Epilogue>();
  const int units = schedule.row_groups * schedule.column_tiles;
  const int running = units < clusters ? units : clusters;
  const int blocks = kCluster * running;
  schedule.row_stride = running / schedule.column_tiles;
  schedule.column_stride = running % schedule.column_tiles;
  launch_dependent(stream, &wide_kernel<Config, Epilogue>, blocks, kGemmThreads,
                   sizeof(WideShared<Config>), matrices, schedule, params, adapters);
  cuda_check_launch("matrix product");
}

// The same for C [m, n] = A [m, k] Bᵀ, B [n, k]: operands in one piece.
template <class Epilogue, class Element>
void wide_launch(cudaStream_t stream, const Element* a, const Element* b, int64_t m, int64_t n,
                 int64_t k, const typename Epilogue::Params& params) {
  using Config = WideConfig<1, 1, false, Element>;
  const WideMatrices<Config> matrices{{tensor_map(a, m, k, k)}, {tensor_map_fragments(b, n, k, k)}};
  WideSchedule schedule{};
  schedule.k_blocks = static_cast<int>(k / Config::kBlockK);
  wide_launch<Config, Epilogue>(stream, matrices, m, n, schedule, params);
}

}  // namespace fairway::sm90
