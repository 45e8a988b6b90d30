// Kernels that begin before the one before them in the stream has ended ("programmatic dependent
// launch", Hopper and newer): the launch itself, and what a kernel does before it touches global
// memory, no longer lie between two kernels. Recorded graphs keep it. For nvcc.
//
// What holds kernels in order is that each of those launched by launch_dependent waits, in every
// block, before it reads or writes global memory: for all work before it, since the kernel before
// it has waited too. Any other kernel begins when the one before it has ended, as ever.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "fairway/device/cuda_check.h"

namespace fairway {

// Every thread of a kernel launched by launch_dependent calls this before it reads or writes global
// memory. The next kernel may begin once all blocks have; it waits here for this one's end. What
// the kernel right before it wrote is no constant of such a kernel: plain loads, not __ldg.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// kernel<<<blocks, threads, shared_bytes, stream>>>(args…), before the kernel before it has ended.
// cuda_check_launch tells whether the launch was valid.
template <class... Parameters, class... Args>
void launch_dependent(cudaStream_t stream, void (*kernel)(Parameters...), dim3 blocks, dim3 threads,
                      size_t shared_bytes, Args&&... args) {
  int device = 0, major = 0;
  cuda_check(cudaGetDevice(&device), "current device");
  cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "compute capability");
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = major == 9 ? 1 : 0;
  // An error is the last error, too.
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

}  // namespace fairway
