// What launches of low-rank kernels on tensor cores share: scratch memory. Internal to ops/; for
// nvcc.
#pragma once

#include <cstdint>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"

namespace fairway::cuda::low_rank {

// Of CudaDevice::workspace.
constexpr int kSlotPacked = 1, kSlotPartial = 2;

// Room for packed matrices, in 16-byte chunks.
inline uint4* packed_workspace(CudaDevice& device, int64_t chunks) {
  return reinterpret_cast<uint4*>(
      device.workspace(kSlotPacked, static_cast<size_t>(chunks) * sizeof(uint4)));
}

// Shared memory beyond 48 KiB has to be asked for.
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  if (bytes > 48 << 10)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "low_rank: asking for shared memory");
}

}  // namespace fairway::cuda::low_rank
