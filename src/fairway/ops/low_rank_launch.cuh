// What launches of low-rank kernels on tensor cores share. Internal to ops/; for nvcc.
#pragma once

#include "fairway/device/cuda_check.h"

namespace fairway::cuda::low_rank {

// Shared memory beyond 48 KiB has to be asked for.
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  if (bytes > 48 << 10)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "low_rank: asking for shared memory");
}

}  // namespace fairway::cuda::low_rank
