#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/round_to.h"

namespace fairway {

namespace {

struct CopyElement {
  __device__ void operator()(float from, float& to) const { to = from; }
};

}  // namespace

void round_to(CudaDevice& device, int64_t n, const float* from, bf16* to) {
  map_elements(device, "round_to", n, CopyElement{}, from, Write<bf16>{to});
}

}  // namespace fairway
