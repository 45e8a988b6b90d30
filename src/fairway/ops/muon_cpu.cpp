#include <algorithm>
#include <cmath>

#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/muon.h"

namespace fairway {

void muon_momentum(CpuDevice& device, int64_t rows, int64_t cols, const float* g, float* m,
                   float* u, double mu, double eps) {
  const float mu_f = static_cast<float>(mu);
#pragma omp parallel for num_threads(device.threads()) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const float* gr = g + row * cols;
    float *mr = m + row * cols, *ur = u + row * cols;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < cols; ++j) {
      const float gj = gr[j], momentum = mu_f * mr[j] + gj, update = gj + mu_f * momentum;
      mr[j] = momentum;
      ur[j] = update;
      sum += static_cast<double>(update) * static_cast<double>(update);
    }
    const float scale = static_cast<float>(1.0 / std::max(std::sqrt(sum), eps));
#pragma omp simd
    for (int64_t j = 0; j < cols; ++j) ur[j] *= scale;
  }
}

void muon_apply(CpuDevice& device, int64_t n, float* w, const float* x, double keep, double rate) {
  const float keep_f = static_cast<float>(keep), rate_f = static_cast<float>(rate);
  for_each_block(device, n, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) w[i] = w[i] * keep_f - rate_f * x[i];
  });
}

}  // namespace fairway
