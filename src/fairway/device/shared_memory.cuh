// Dynamic shared memory of kernels. For nvcc.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "fairway/device/cuda_check.h"

namespace fairway {

// Before a launch with so many bytes: what is more than 48 KiB has to be asked for.
template <class Kernel>
void allow_shared(Kernel* kernel, size_t bytes) {
  if (bytes > 48 << 10)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes)),
               "asking for shared memory");
}

}  // namespace fairway
