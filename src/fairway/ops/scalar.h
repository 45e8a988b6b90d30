// Scalar mathematics of the ops, for float, double and std::complex<double>.
//
// The complex instantiation carries a derivative in its imaginary part (complex-step
// differentiation), so nothing here may conjugate, and every comparison looks at the real part
// only. The float versions of exp and tanh are branch-free so that loops over them vectorise, and
// give the same bits in a vector lane as in a scalar tail.
#pragma once

#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>

namespace fairway {

inline float real_part(float x) {
  return x;
}
inline double real_part(double x) {
  return x;
}
inline double real_part(std::complex<double> x) {
  return x.real();
}

// e^x, relative error below 2e-7. Flushes to 0 below −87, saturates above 88.
inline float exp_(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  // n = round(x / ln 2) by adding and subtracting 1.5·2^23; r = x − n·ln 2 in two pieces.
  const float n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float two_n = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.0f ? 0.0f : p * two_n;
}
inline double exp_(double x) {
  return std::exp(x);
}
inline std::complex<double> exp_(std::complex<double> x) {
  return std::exp(x);
}

// tanh x: odd Taylor polynomial below 0.3, 1 − 2/(e^2x + 1) above.
inline float tanh_(float x) {
  const float magnitude = std::fabs(x), s = x * x;
  const float small =
      x * (1.0f + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835)))));
  const float large = 1.0f - 2.0f / (exp_(2.0f * magnitude) + 1.0f);
  return magnitude < 0.3f ? small : std::copysign(large, x);
}
inline double tanh_(double x) {
  return std::tanh(x);
}
inline std::complex<double> tanh_(std::complex<double> x) {
  return std::tanh(x);
}

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + exp_(-x));
}

// Σ a_i b_i.
template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum{};
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}
template <>
inline float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace fairway
