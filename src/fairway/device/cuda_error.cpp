#include "fairway/device/cuda_error.h"

#include "fairway/base/check.h"

namespace fairway::cuda {

void require_success(cudaError_t error, const char* what) {
  require(error == cudaSuccess, "{}: {}", what, cudaGetErrorString(error));
}

}  // namespace fairway::cuda
