#include <cmath>

#include "fairway/base/check.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/elementwise_cuda.h"

namespace fairway {

namespace {

struct AdamWElement {
  float beta1, gain1, beta2, gain2, keep, rate, correction, eps;

  __device__ void operator()(float& w, float g, float& m, float& v) const {
    m = beta1 * m + gain1 * g;
    step(w, g, m, v);
  }
  // With β₁ = 0: the first moment is the gradient.
  __device__ void operator()(float& w, float g, float& v) const { step(w, g, g, v); }

 private:
  __device__ void step(float& w, float g, float m, float& v) const {
    v = beta2 * v + gain2 * (g * g);
    w = w * keep - rate * m / (sqrtf(v) * correction + eps);
  }
};

}  // namespace

void adamw(CudaDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step) {
  check(m || step.beta1 == 0, "adamw: m may be null only with beta1 = 0");
  const double t = static_cast<double>(step.step);
  const AdamWElement f{static_cast<float>(step.beta1), static_cast<float>(1 - step.beta1),
                       static_cast<float>(step.beta2), static_cast<float>(1 - step.beta2),
                       static_cast<float>(1 - step.lr * step.weight_decay),
                       static_cast<float>(step.lr / (1 - std::pow(step.beta1, t))),
                       // sqrt(v/(1−β₂ᵗ)) = sqrt(v)·correction
                       static_cast<float>(1 / std::sqrt(1 - std::pow(step.beta2, t))),
                       static_cast<float>(step.eps)};
  if (m)
    map_elements(device, "adamw", n, f, w, g, m, v);
  else
    map_elements(device, "adamw", n, f, w, g, v);
}

}  // namespace fairway
