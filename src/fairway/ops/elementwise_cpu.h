// The shape of every flat elementwise kernel on the CPU: blocks of fixed size, one thread a block.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fairway/device/cpu_device.h"

namespace fairway {

inline constexpr int64_t kElementwiseBlock = 16384;

// body(begin, size) for consecutive blocks of [0, n), spread over the device's threads.
template <class F>
void for_each_block(CpuDevice& device, int64_t n, F&& body) {
  const int64_t blocks = (n + kElementwiseBlock - 1) / kElementwiseBlock;
#pragma omp parallel for num_threads(device.threads()) schedule(static) if (blocks > 1)
  for (int64_t b = 0; b < blocks; ++b)
    body(b * kElementwiseBlock, std::min(n - b * kElementwiseBlock, kElementwiseBlock));
}

}  // namespace fairway
