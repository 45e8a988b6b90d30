#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/ema.h"

namespace fairway {

namespace {

struct EmaElement {
  float keep, gain;
  __device__ void operator()(float& e, float w) const { e = keep * e + gain * w; }
};

}  // namespace

void ema(CudaDevice& device, int64_t n, float* e, const float* w, double decay) {
  map_elements(device, "ema", n,
               EmaElement{static_cast<float>(decay), static_cast<float>(1 - decay)}, e, w);
}

}  // namespace fairway
