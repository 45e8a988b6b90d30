// CUDA status codes become exceptions.
#pragma once

#include <cuda_runtime_api.h>

namespace fairway::cuda {

// Throws Error("<what>: <the code's text>") unless the code is cudaSuccess.
void require_success(cudaError_t error, const char* what);

}  // namespace fairway::cuda
