// One element's AdamW step on CUDA. Internal to ops/; for nvcc.
#pragma once

#include "fairway/ops/adamw_factors.h"

namespace fairway {

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

}  // namespace fairway
