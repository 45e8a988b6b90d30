#include <cmath>

#include "fairway/base/check.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/elementwise_cpu.h"

namespace fairway {

void adamw(CpuDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step) {
  check(m || step.beta1 == 0, "adamw: m may be null only with beta1 = 0");
  const double t = static_cast<double>(step.step);
  const float beta1 = static_cast<float>(step.beta1), gain1 = static_cast<float>(1 - step.beta1);
  const float beta2 = static_cast<float>(step.beta2), gain2 = static_cast<float>(1 - step.beta2);
  const float keep = static_cast<float>(1 - step.lr * step.weight_decay);
  const float rate = static_cast<float>(step.lr / (1 - std::pow(step.beta1, t)));
  const float correction = static_cast<float>(1 / std::sqrt(1 - std::pow(step.beta2, t)));
  const float eps = static_cast<float>(step.eps);
  // sqrt(v/(1−β₂ᵗ)) = sqrt(v)·correction
  if (m) {
    for_each_block(device, n, [=](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float gi = g[i];
        const float mi = beta1 * m[i] + gain1 * gi, vi = beta2 * v[i] + gain2 * (gi * gi);
        m[i] = mi;
        v[i] = vi;
        w[i] = w[i] * keep - rate * mi / (std::sqrt(vi) * correction + eps);
      }
    });
  } else {
    for_each_block(device, n, [=](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float gi = g[i], vi = beta2 * v[i] + gain2 * (gi * gi);
        v[i] = vi;
        w[i] = w[i] * keep - rate * gi / (std::sqrt(vi) * correction + eps);
      }
    });
  }
}

}  // namespace fairway
