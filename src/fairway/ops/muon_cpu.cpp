#include <algorithm>
#include <cmath>

#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/muon.h"

namespace fairway {

namespace {

// m ← μm + g, u = g + μm over one row; returns ‖u‖².
double momentum_row(int64_t n, const float* g, float* m, float* u, float mu) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    const float gj = g[j], momentum = mu * m[j] + gj, update = gj + mu * momentum;
    m[j] = momentum;
    u[j] = update;
    sum += static_cast<double>(update) * static_cast<double>(update);
  }
  return sum;
}

void scale_row(int64_t n, float* u, float scale) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) u[j] *= scale;
}

void apply_block(int64_t n, float* w, const float* x, float keep, float rate) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) w[i] = w[i] * keep - rate * x[i];
}

}  // namespace

void muon_momentum(CpuDevice& device, int64_t rows, int64_t cols, const float* g, float* m,
                   float* u, double mu, double eps) {
#pragma omp parallel for num_threads(device.threads()) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = row * cols;
    const double sum = momentum_row(cols, g + begin, m + begin, u + begin, static_cast<float>(mu));
    scale_row(cols, u + begin, static_cast<float>(1.0 / std::max(std::sqrt(sum), eps)));
  }
}

void muon_apply(CpuDevice& device, int64_t n, float* w, const float* x, double keep, double rate) {
  for_each_block(device, n, [&](int64_t begin, int64_t size) {
    apply_block(size, w + begin, x + begin, static_cast<float>(keep), static_cast<float>(rate));
  });
}

}  // namespace fairway
