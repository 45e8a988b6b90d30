// CUDA errors as exceptions. Internal to device/ and ops/.
#pragma once

#include <cuda_runtime_api.h>

#include "fairway/base/check.h"

namespace fairway {

inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    fail("CUDA: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

// After a kernel launch: whether the launch itself was valid.
inline void cuda_check_launch(const char* kernel) {
  cuda_check(cudaGetLastError(), kernel);
}

}  // namespace fairway
