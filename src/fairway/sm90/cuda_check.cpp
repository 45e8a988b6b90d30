#include "fairway/sm90/cuda_check.h"

#include "fairway/base/check.h"

namespace fairway::sm90 {

void cuda_require(cudaError_t error, const char* what) {
  require(error == cudaSuccess, "{}: {}", what, cudaGetErrorString(error));
}

void launch_require(bool ok, const char* what) {
  require(ok, "{}", what);
}

}  // namespace fairway::sm90
