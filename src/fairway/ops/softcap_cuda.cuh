// e^l and the slope of l = c·tanh(z/c), as kernels compute them on the special function unit. For
// nvcc.
//
// With E = e^(2z/c), q = 1/(1 + E) and k = c·log2 e: tanh(z/c) = 1 − 2q, e^l = 2^(k − 2kq) and
// 1 − tanh² = 4(q − q²).
#pragma once

#include <cstdint>

namespace fairway {

__device__ __forceinline__ float exp2_of(float x) {  // relative error 2^-22
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_of(float x) {  // 1 ulp
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

struct Softcap {
  float c, inverse_c;
  float to_exponent;  // E = 2^(z·to_exponent)
  float k;
};
// Caps c up to this leave e^±c, and sums of many, far from the ends of float's range: no maximum
// need be subtracted.
constexpr double kMostCap = 50;

inline Softcap softcap_of(double cap) {
  constexpr double kLog2E = 1.4426950408889634;
  return {static_cast<float>(cap), static_cast<float>(1 / cap),
          static_cast<float>(2 * kLog2E / cap), static_cast<float>(cap * kLog2E)};
}

// 1 + E. Exponents end at 30, where tanh is 1 in float, so that a product of four is finite; NaN
// stays NaN.
__device__ __forceinline__ float one_plus_e(const Softcap& cap, float z) {
  float exponent;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(exponent) : "f"(z * cap.to_exponent), "f"(30.0f));
  return 1.0f + exp2_of(exponent);
}

// q of four logits with one reciprocal: its unit is what a softcap waits for.
__device__ __forceinline__ void softcap_q(const Softcap& cap, const float* z, float* q) {
  float t[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) t[i] = one_plus_e(cap, z[i]);
  const float low = t[0] * t[1], high = t[2] * t[3], inverse = reciprocal_of(low * high);
  const float of_low = inverse * high, of_high = inverse * low;
  q[0] = of_low * t[1];
  q[1] = of_low * t[0];
  q[2] = of_high * t[3];
  q[3] = of_high * t[2];
}

// e^l and a quarter of l's slope.
__device__ __forceinline__ float exp_softcap(const Softcap& cap, float q) {
  return exp2_of(fmaf(q, -2.0f * cap.k, cap.k));
}
__device__ __forceinline__ float quarter_slope(float q) {
  return fmaf(-q, q, q);
}

}  // namespace fairway
