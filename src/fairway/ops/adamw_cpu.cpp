#include <cmath>

#include "fairway/base/check.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/adamw_factors.h"
#include "fairway/ops/elementwise_cpu.h"

namespace fairway {

namespace {

void adamw_block(int64_t n, float* w, const float* g, float* m, float* v, const AdamWFactors f) {
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
void adamw_block(int64_t n, float* w, const float* g, float* v, const AdamWFactors f) {
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
  const AdamWFactors f = adamw_factors(step);
  for_each_block(device, n, [&](int64_t begin, int64_t size) {
    if (m)
      adamw_block(size, w + begin, g + begin, m + begin, v + begin, f);
    else
      adamw_block(size, w + begin, g + begin, v + begin, f);
  });
}

}  // namespace fairway
