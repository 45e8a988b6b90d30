// Linear maps as operands of the wide product's kernels. Internal to ops/; for nvcc.
#pragma once

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {

inline void require_widths(int64_t in, int64_t out) {
  require(in > 0 && out > 0 && widths_fit(in, out),
          "a matrix product's widths must be multiples of 64");
}

// Σ_i dy[i] w[i] as one product, whose K goes on from map to map; arguments as of
// linear_three_backward_input, with rows > 0.
template <class Config>
struct LinearThreeOperands {
  sm90::WideMatrices<Config> matrices{};
  sm90::WideSchedule schedule{};

  LinearThreeOperands(const bf16* const dy[3], const bf16* w_transposed, int64_t rows, int64_t in,
                      const int64_t out[3]) {
    int64_t k = 0;
    for (int i = 0; i < 3; ++i) {
      require_widths(in, out[i]);
      matrices.a[i] = sm90::tensor_map(dy[i], rows, out[i], out[i]);
      schedule.along_k.begin[i] = static_cast<int>(k / Config::kBlockK);
      k += out[i];
    }
    matrices.b[0] = sm90::tensor_map_fragments(w_transposed, in, k, k);
    schedule.k_blocks = static_cast<int>(k / Config::kBlockK);
  }
};

}  // namespace fairway::cuda
