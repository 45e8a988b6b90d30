// Adapters for the wide product's kernels. Internal to ops/; for nvcc.
#pragma once

#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {

// `scales`: of the product's operands, where they are e4m3.
template <class Config>
sm90::WideAdapters<Config> wide_adapters(const AdapterOperands& from, int64_t rows,
                                         const sm90::WideScales& scales = {}) {
  static_assert(Config::kPartsB <= kMostAdapted);
  require(from.row_tiles % sm90::kCluster == 0, "adapters: half a group of row tiles");
  sm90::WideAdapters<Config> to{};
  for (size_t i = 0; i < Config::kPartsB; ++i) {
    if (!from.x[i]) continue;
    to.x[i] = sm90::tensor_map(from.x[i], rows, from.k, from.x_pitch);
    to.blocks[i] = sm90::wide_ceil_div(from.k, sm90::kAdapterBlockK);
  }
  const int64_t last = from.k % sm90::kAdapterBlockK;
  // Behind others: the first block of all is a whole one.
  to.ends_in_half = last > 0 && last <= sm90::kAdapterBlockK / 2 &&
                    (Config::kPartsA > 0 || from.k > sm90::kAdapterBlockK);
  const int64_t m_rows = (from.docs - 1) * from.doc_pitch + from.width;
  require(m_rows <= INT32_MAX, "adapters: too many documents");
  to.m = sm90::tensor_map_fragments(from.m, m_rows, from.k, from.m_pitch);
  to.doc_pitch = static_cast<int>(from.doc_pitch);
  to.tiles = from.tiles;
  to.scales = scales;
  return to;
}

}  // namespace fairway::cuda
