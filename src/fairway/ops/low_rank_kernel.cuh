// What the low-rank kernels share, whichever unit multiplies. Internal to ops/; for nvcc.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fairway/base/bf16_cuda.cuh"

namespace fairway::cuda::low_rank {

// f(the smallest kernel rank that holds `rank`), as a compile-time constant. kMost: the largest
// there is, 96 or more than 128.
template <int kMost, class F>
void with_kernel_rank(int64_t rank, F&& f) {
  if (rank <= 32)
    f(std::integral_constant<int, 32>{});
  else if (rank <= 64)
    f(std::integral_constant<int, 64>{});
  else if (kMost == 96 || rank <= 96)
    f(std::integral_constant<int, 96>{});
  else if constexpr (kMost > 96) {
    if (rank <= 128)
      f(std::integral_constant<int, 128>{});
    else
      f(std::integral_constant<int, kMost>{});
  }
}

__device__ inline uint32_t add_pair(uint32_t y, float low, float high) {
  const float2 before = unpack_bf16(y);
  return pack_bf16(before.x + low, before.y + high);
}

}  // namespace fairway::cuda::low_rank
