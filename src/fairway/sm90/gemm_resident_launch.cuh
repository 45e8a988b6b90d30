// Host side of the matrix product with B in shared memory.
#pragma once

#include <algorithm>

#include "fairway/sm90/gemm_resident.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::sm90 {

// wide_launch for C [m, n] = A [m, k] Bᵀ, with B resident where k is short enough.
template <class Epilogue, class Element>
void resident_launch(cudaStream_t stream, const Element* a, const Element* b, int64_t m, int64_t n,
                     int64_t k, const typename Epilogue::Params& params) {
  using Config = ResidentConfig<Element>;
  int device = 0, multiprocessors = 0;
  cuda_check(cudaGetDevice(&device), "cudaGetDevice");
  cuda_check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
             "multiprocessors");
  ResidentSchedule schedule{wide_ceil_div(n, Config::kTileColumns), wide_ceil_div(n, kBox),
                            wide_ceil_div(m, kTileRows), 0, static_cast<int>(k / Config::kBlockK)};
  schedule.row_step = std::min(multiprocessors / schedule.column_tiles, schedule.row_tiles);
  if (schedule.row_step == 0 || schedule.k_blocks > Config::kMaxBlocks) {
    wide_launch<Epilogue>(stream, a, b, m, n, k, params);
    return;
  }
  const int blocks = schedule.row_step * schedule.column_tiles;
  const auto kernel = &resident_kernel<Config, Epilogue>;
  constexpr int kBytes = sizeof(ResidentShared<Config>);
  static_assert(kBytes <= 232448, "shared memory of a block");
  allow_shared(kernel, kBytes);
  launch_dependent(stream, kernel, blocks, kGemmThreads, kBytes, tensor_map(a, m, k, k),
                   tensor_map_fragments(b, n, k, k), schedule, params);
  cuda_check_launch("matrix product");
}

}  // namespace fairway::sm90
