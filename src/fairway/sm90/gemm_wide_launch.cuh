// Host side of the matrix product with 128 x 256 tiles: schedules and launches.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
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
  cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "shared memory of the matrix product");
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = Config::kCluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = Config::kCluster;
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

// All of [rows, columns], not split along K; `column_tiles` counts those of all segments.
template <class Config>
WideSchedule wide_schedule(int64_t rows, int column_tiles, int k_blocks) {
  WideSchedule schedule{};
  schedule.row_groups = wide_ceil_div(rows, Config::kCluster * kTileRows);
  schedule.column_tiles = column_tiles;
  schedule.splits = 1;
  schedule.k_blocks = schedule.k_blocks_per_split = k_blocks;
  return schedule;
}

template <class Config, class Epilogue>
void wide_launch(cudaStream_t stream, const WideMatrices<Config::kSegments>& matrices,
                 const WideSchedule& schedule, const typename Epilogue::Params& params) {
  const int clusters = wide_clusters<Config, Epilogue>();
  const int units = schedule.row_groups * schedule.column_tiles * schedule.splits;
  const int blocks = Config::kCluster * (units < clusters ? units : clusters);
  wide_kernel<Config, Epilogue>
      <<<blocks, kGemmThreads, sizeof(WideShared<Config>), stream>>>(matrices, schedule, params);
  cuda_check_launch("matrix product");
}

// Fills everything of a product with one segment, c [m, n]. B is [n, k] if contiguous along K.
template <class Config>
WideMatrices<1> wide_matrices(const bf16* a, const bf16* b, const bf16* input, int64_t m, int64_t n,
                              int64_t k, bf16* c) {
  WideMatrices<1> matrices{};
  matrices.a[0] = tensor_map(a, m, k, k);
  matrices.b[0] = Config::kMajorB == Major::kK ? tensor_map(b, n, k, k) : tensor_map(b, k, n, n);
  matrices.c[0] = tensor_map(c, m, n, n, kPieceRows);
  matrices.to[0] = c;
  matrices.input = input;
  matrices.columns[0] = static_cast<int>(n);
  matrices.rows = static_cast<int>(m);
  return matrices;
}

template <class Config, class Epilogue>
void wide_product(cudaStream_t stream, const WideMatrices<1>& matrices, int64_t k,
                  const typename Epilogue::Params& params) {
  wide_launch<Config, Epilogue>(
      stream, matrices,
      wide_schedule<Config>(matrices.rows, wide_ceil_div(matrices.columns[0], Config::kTileColumns),
                            static_cast<int>(k / kBlockK)),
      params);
}

}  // namespace fairway::sm90
