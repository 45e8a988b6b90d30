#include <cmath>
#include <vector>

#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/grad_norm.h"

namespace fairway {

double grad_norm(CpuDevice& device, int64_t n, const float* g) {
  std::vector<double> partial(static_cast<size_t>((n + kElementwiseBlock - 1) / kElementwiseBlock));
  for_each_block(device, n, [&](int64_t begin, int64_t end) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i)
      sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    partial[static_cast<size_t>(begin / kElementwiseBlock)] = sum;
  });
  double total = 0;
  for (double p : partial) total += p;
  return std::sqrt(total);
}

void clip_grad(CpuDevice& device, int64_t n, float* g, double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  if (!(factor < 1)) return;
  const float scale = static_cast<float>(factor);
  for_each_block(device, n, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) g[i] *= scale;
  });
}

}  // namespace fairway
