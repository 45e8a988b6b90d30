#include <cmath>

#include "fairway/base/check.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/elementwise_cpu.h"

namespace fairway {

namespace {

struct Factors {
  float beta1, gain1, beta2, gain2, keep, rate, correction, eps;
};

void adamw_block(int64_t n, float* w, const float* g, float* m, float* v, const Factors f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gi = g[i];
    const float mi = f.beta1 * m[i] + f.gain1 * gi, vi = f.beta2 * v[i] + f.gain2 * (gi * gi);
    m[i] = mi;
    v[i] = vi;
    w[i] = w[i] * f.keep - f.rate * mi / (std::sqrt(vi) * f.correction + f.eps);
  }
}

// The same with β₁ = 0: the first moment is the gradient.
void adamw_block(int64_t n, float* w, const float* g, float* v, const Factors f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gi = g[i], vi = f.beta2 * v[i] + f.gain2 * (gi * gi);
    v[i] = vi;
    w[i] = w[i] * f.keep - f.rate * gi / (std::sqrt(vi) * f.correction + f.eps);
  }
}

}  // namespace

void adamw(CpuDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step) {
  check(m || step.beta1 == 0, "adamw: m may be null only with beta1 = 0");
  const double t = static_cast<double>(step.step);
  const Factors f{static_cast<float>(step.beta1), static_cast<float>(1 - step.beta1),
                  static_cast<float>(step.beta2), static_cast<float>(1 - step.beta2),
                  static_cast<float>(1 - step.lr * step.weight_decay),
                  static_cast<float>(step.lr / (1 - std::pow(step.beta1, t))),
                  // sqrt(v/(1−β₂ᵗ)) = sqrt(v)·correction
                  static_cast<float>(1 / std::sqrt(1 - std::pow(step.beta2, t))),
                  static_cast<float>(step.eps)};
  for_each_block(device, n, [&](int64_t begin, int64_t size) {
    if (m)
      adamw_block(size, w + begin, g + begin, m + begin, v + begin, f);
    else
      adamw_block(size, w + begin, g + begin, v + begin, f);
  });
}

}  // namespace fairway
