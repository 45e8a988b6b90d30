// What one AdamW step multiplies every element with, on any device. Internal to ops/adamw_*.
#pragma once

#include <cmath>

#include "fairway/ops/adamw.h"

namespace fairway {

// m = beta1·m + gain1·g;  v = beta2·v + gain2·g²;
// w = keep·w − rate·m / (sqrt(v)·correction + eps)
struct AdamWFactors {
  float beta1, gain1, beta2, gain2, keep, rate, correction, eps;
};

inline AdamWFactors adamw_factors(const AdamW& step) {
  const auto t = static_cast<double>(step.step);
  return {static_cast<float>(step.beta1), static_cast<float>(1 - step.beta1),
          static_cast<float>(step.beta2), static_cast<float>(1 - step.beta2),
          static_cast<float>(1 - step.lr * step.weight_decay),
          static_cast<float>(step.lr / (1 - std::pow(step.beta1, t))),
          // sqrt(v/(1−β₂ᵗ)) = sqrt(v)·correction
          static_cast<float>(1 / std::sqrt(1 - std::pow(step.beta2, t))),
          static_cast<float>(step.eps)};
}

}  // namespace fairway
