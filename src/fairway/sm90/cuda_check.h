// The CUDA runtime's errors as exceptions; apart from base/check.h because nvcc cannot compile the
// format strings there.
#pragma once

#include <cuda_runtime_api.h>

namespace fairway::sm90 {

// Throws Error with `what` and the runtime's message.
void cuda_require(cudaError_t error, const char* what);
// Throws Error with `what`.
void launch_require(bool ok, const char* what);

}  // namespace fairway::sm90
