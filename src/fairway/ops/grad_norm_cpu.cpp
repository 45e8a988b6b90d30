#include <vector>

#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/grad_norm.h"

namespace fairway {

namespace {

// Plain functions of plain pointers: inside a lambda GCC gathers the captured pointers lane by
// lane.
double sum_squares(int64_t n, const float* x) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

void scale_block(int64_t n, float* x, float scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace

void add_sum(CpuDevice&, int64_t n, const float* x, double* total) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  *total += sum;
}

void add_squares(CpuDevice& device, int64_t n, const float* x, double* total) {
  std::vector<double> partial(static_cast<size_t>((n + kElementwiseBlock - 1) / kElementwiseBlock));
  for_each_block(device, n, [&](int64_t begin, int64_t size) {
    partial[static_cast<size_t>(begin / kElementwiseBlock)] = sum_squares(size, x + begin);
  });
  double sum = 0;
  for (double p : partial) sum += p;
  *total += sum;
}

void clip_grad(CpuDevice& device, int64_t n, float* g, double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  if (!(factor < 1)) return;
  for_each_block(device, n, [&](int64_t begin, int64_t size) {
    scale_block(size, g + begin, static_cast<float>(factor));
  });
}

}  // namespace fairway
