#include "fairway/base/check.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/adamw_factors.h"
#include "fairway/ops/elementwise_cuda.h"

namespace fairway {

namespace {

struct AdamWElement {
  AdamWFactors f;

  __device__ void operator()(float& w, float g, float& m, float& v) const {
    m = f.beta1 * m + f.gain1 * g;
    step(w, g, m, v);
  }
  // With β₁ = 0: the first moment is the gradient.
  __device__ void operator()(float& w, float g, float& v) const { step(w, g, g, v); }

 private:
  __device__ void step(float& w, float g, float m, float& v) const {
    v = f.beta2 * v + f.gain2 * (g * g);
    w = w * f.keep - f.rate * m / (sqrtf(v) * f.correction + f.eps);
  }
};

}  // namespace

void adamw(CudaDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step) {
  check(m || step.beta1 == 0, "adamw: m may be null only with beta1 = 0");
  const AdamWElement f{adamw_factors(step)};
  if (m)
    map_elements(device, "adamw", n, f, w, g, m, v);
  else
    map_elements(device, "adamw", n, f, w, g, v);
}

}  // namespace fairway
