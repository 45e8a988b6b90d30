#include <cmath>

#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/scalar.h"
#include "fairway/ops/softcap_xent.h"

namespace fairway {

namespace {

template <class T>
T sum_exp(const T* l, int64_t n, T max) {
  T sum{};
  for (int64_t i = 0; i < n; ++i) sum += exp_(l[i] - max);
  return sum;
}
template <>
float sum_exp(const float* l, int64_t n, float max) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += exp_(l[i] - max);
  return sum;
}

template <class T>
auto max_real(const T* l, int64_t n) {
  auto max = real_part(l[0]);
  for (int64_t i = 1; i < n; ++i) max = std::max(max, real_part(l[i]));
  return max;
}
template <>
auto max_real(const float* l, int64_t n) {
  float max = -INFINITY;
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = l[i] > max ? l[i] : max;
  return max;
}

}  // namespace

template <class T>
void softcap_xent(CpuDevice& device, Tensor<T> z, Tensor<const int32_t> targets, double cap,
                  const T* d_nll, Tensor<T> nll) {
  using std::log;
  using Real = decltype(real_part(T{}));
  const int64_t V = z.extent(1);
  const T c = T(static_cast<Real>(cap)), inverse_c = T(1) / c;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 4)
  for (int64_t n = 0; n < z.extent(0); ++n) {
    T* row = z.data + n * V;
    // |l| ≤ c, so e^(l − c) neither overflows nor, for any sensible c, underflows altogether; the
    // maximum is subtracted all the same, for accuracy when c is large.
#pragma omp simd
    for (int64_t i = 0; i < V; ++i) row[i] = c * tanh_(row[i] * inverse_c);
    const Real max = max_real(static_cast<const T*>(row), V);
    const T sum = sum_exp<T>(row, V, T(max));
    nll[n] = log(sum) + T(max) - row[targets[n]];
    if (d_nll == nullptr) continue;
    const T scale = d_nll[n] / sum, target_l = row[targets[n]];
#pragma omp simd
    for (int64_t i = 0; i < V; ++i) {
      const T th = row[i] * inverse_c;
      row[i] = scale * exp_(row[i] - T(max)) * (T(1) - th * th);
    }
    const T th = target_l * inverse_c;
    row[targets[n]] -= d_nll[n] * (T(1) - th * th);
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                               \
  template void softcap_xent(CpuDevice&, Tensor<T>, Tensor<const int32_t>, double, const T*, \
                             Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
