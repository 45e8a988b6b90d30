#include <algorithm>
#include <cmath>

#include "fairway/device/cpu_matmul.h"
#include "fairway/ops/newton_schulz.h"

namespace fairway {

namespace {

// out = x / (‖x‖_F + eps) for each of `batch` matrices of `size` elements. `out` may be `x`.
void normalise(CpuDevice& device, int64_t batch, int64_t size, const float* x, double eps,
               float* out) {
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t i = 0; i < batch; ++i) {
    const float* xi = x + i * size;
    float* oi = out + i * size;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < size; ++j)
      sum += static_cast<double>(xi[j]) * static_cast<double>(xi[j]);
    const float scale = static_cast<float>(1.0 / (std::sqrt(sum) + eps));
#pragma omp simd
    for (int64_t j = 0; j < size; ++j) oi[j] = xi[j] * scale;
  }
}

// square ← aI + b·gram + c·square, for `batch` matrices [n, n].
void polynomial(CpuDevice& device, int64_t batch, int64_t n, const float* gram, float* square,
                const NewtonSchulz& ns) {
  const float a = static_cast<float>(ns.a), b = static_cast<float>(ns.b),
              c = static_cast<float>(ns.c);
#pragma omp parallel for num_threads(device.threads()) schedule(static)
  for (int64_t row = 0; row < batch * n; ++row) {
    const float* g = gram + row * n;
    float* s = square + row * n;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) s[j] = b * g[j] + c * s[j];
    s[row % n] += a;
  }
}

}  // namespace

int64_t newton_schulz_scratch(int64_t batch, int64_t rows, int64_t cols) {
  const int64_t n = std::min(rows, cols);
  return batch * (rows * cols + 2 * n * n);
}

void newton_schulz(CpuDevice& device, int64_t batch, int64_t rows, int64_t cols, float* x,
                   const NewtonSchulz& ns, float* scratch) {
  const int64_t n = std::min(rows, cols), size = rows * cols, square_size = n * n;
  float* other = scratch;                      // [batch, rows, cols]
  float* gram = other + batch * size;          // [batch, n, n]
  float* square = gram + batch * square_size;  // [batch, n, n]
  const bool wide = rows <= cols;

  // X alternates between two buffers; an odd number of steps starts in the other one, to end in x.
  float* from = ns.steps % 2 == 0 ? x : other;
  float* to = ns.steps % 2 == 0 ? other : x;
  normalise(device, batch, size, x, ns.eps, from);
  for (int step = 0; step < ns.steps; ++step) {
    if (wide)
      matmul_batched(device, batch, n, n, cols, mat(from, cols), size, mat_t(from, cols), size,
                     gram, n, square_size, false);
    else
      matmul_batched(device, batch, n, n, rows, mat_t(from, cols), size, mat(from, cols), size,
                     gram, n, square_size, false);
    matmul_batched(device, batch, n, n, n, mat(gram, n), square_size, mat(gram, n), square_size,
                   square, n, square_size, false);
    polynomial(device, batch, n, gram, square, ns);
    if (wide)
      matmul_batched(device, batch, n, cols, n, mat(square, n), square_size, mat(from, cols), size,
                     to, cols, size, false);
    else
      matmul_batched(device, batch, rows, n, n, mat(from, cols), size, mat(square, n), square_size,
                     to, cols, size, false);
    std::swap(from, to);
  }
}

}  // namespace fairway
