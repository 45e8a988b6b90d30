// RMS norm of one row, shared by the ops that fuse it. Internal to ops/*_cpu.cpp.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>

#include "fairway/ops/scalar.h"

namespace fairway {

template <class T>
T row_rstd(const T* x, int64_t D, double eps) {
  using std::sqrt;
  using Real = decltype(real_part(T{}));
  return T(1) / sqrt(dot(x, x, D) / T(static_cast<Real>(D)) + T(static_cast<Real>(eps)));
}

// dx += rstd·(dn − x·rstd²·mean(dn⊙x)).
template <class T>
void row_rms_backward(const T* dn, const T* x, T rstd, int64_t D, T* dx) {
  using Real = decltype(real_part(T{}));
  const T c = rstd * rstd * dot(dn, x, D) / T(static_cast<Real>(D));
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) dx[j] += rstd * (dn[j] - x[j] * c);
}

// The same from the norm's output n = scale·rstd·x:
//   dx += rstd·(scale·dn − n·mean(dn⊙n)/scale).
template <class T>
void row_rms_backward_from_output(const T* dn, const T* n, T rstd, double scale, int64_t D, T* dx) {
  using Real = decltype(real_part(T{}));
  const T along = rstd * dot(dn, n, D) / T(static_cast<Real>(static_cast<double>(D) * scale));
  const T factor = rstd * T(static_cast<Real>(scale));
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) dx[j] += factor * dn[j] - along * n[j];
}

}  // namespace fairway
