// e4m3, an 8-bit float: a sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, largest
// 448, normal from 2^-6, subnormal down to 2^-9. Four significant bits, so bf16 and float hold its
// values and their products with the powers of two below exactly.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "fairway/base/host_device.h"

namespace fairway {

// In memory.
struct e4m3 {
  uint8_t bits = 0;
};

inline constexpr float kE4m3Max = 448.0f;

// Exponents of scales are kept within this. A sum of two of them, which may be a scale too, then
// leaves 2^e normal and 448·2^-e finite.
inline constexpr int kE4m3MaxExponent = 59;

FAIRWAY_HOST_DEVICE inline int clamp_e4m3_exponent(int e) {
  return e < -kE4m3MaxExponent ? -kE4m3MaxExponent : e > kE4m3MaxExponent ? kE4m3MaxExponent : e;
}

// 2^e for −126 ≤ e ≤ 127.
FAIRWAY_HOST_DEVICE inline float power_of_two(int e) {
  return std::bit_cast<float>(static_cast<uint32_t>(e + 127) << 23);
}

// x rounded to e4m3: to nearest, ties to even, saturating at ±448; NaN stays NaN. The same value as
// the conversion instructions of GPUs give. F: float or double.
template <class F>
FAIRWAY_HOST_DEVICE inline F round_to_e4m3(F x) {
  static_assert(std::is_same_v<F, float> || std::is_same_v<F, double>);
  using Bits = std::conditional_t<std::is_same_v<F, float>, uint32_t, uint64_t>;
  constexpr int kMantissa = std::is_same_v<F, float> ? 23 : 52;
  constexpr Bits kBias = std::is_same_v<F, float> ? 127 : 1023;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(F) - 1);
  constexpr Bits kFirstNormal = kBias - 6;
  const Bits bits = std::bit_cast<Bits>(x), sign = bits & kSign;
  const F given = std::bit_cast<F>(bits ^ sign);
  const F magnitude = given > F(kE4m3Max) ? F(kE4m3Max) : given;
  // The sum with a power of two whose last bit is worth as much as e4m3's at this magnitude is
  // rounded by the addition itself.
  const Bits own = std::bit_cast<Bits>(magnitude) >> kMantissa;
  const Bits exponent = (own > kFirstNormal ? own : kFirstNormal) + Bits(kMantissa - 3);
  const F power = std::bit_cast<F>((exponent << kMantissa) & ~kSign);
  const F rounded = (magnitude + power) - power;
  return std::bit_cast<F>(std::bit_cast<Bits>(rounded) | sign);
}

// round_to_e4m3(x) in memory.
FAIRWAY_HOST_DEVICE inline e4m3 to_e4m3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(round_to_e4m3(x));
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t code = 0x7F;  // NaN
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6f))
    code = static_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p9f);
  else if (magnitude <= std::bit_cast<uint32_t>(kE4m3Max))
    code = (magnitude >> 20) - ((127 - 7) << 3);
  return {static_cast<uint8_t>(bits >> 31 << 7 | code)};
}

// Q(x·2^e)·2^-e: what stands for x in a product of e4m3 operands with the scale 2^e.
// |e| ≤ 2·kE4m3MaxExponent.
template <class F>
FAIRWAY_HOST_DEVICE inline F as_e4m3(F x, int e) {
  return round_to_e4m3(x * F(power_of_two(e))) * F(power_of_two(-e));
}

// The largest e with |x|·2^e ≤ 448 wherever |x| ≤ `largest`, clamped: kE4m3MaxExponent for zero,
// which so never decides what the least of several exponents is. 0 for NaN.
FAIRWAY_HOST_DEVICE inline int e4m3_exponent(float largest) {
  if (!(largest >= 0)) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(largest);
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const bool above = (bits & 0x7FFFFFu) > 0x600000u;  // 448 is 1.75·2^8
  return clamp_e4m3_exponent((above ? 7 : 8) - exponent);
}

// ⌊−log2 x⌋: the largest e with x·2^e ≤ 1. x > 0, normal.
FAIRWAY_HOST_DEVICE inline int exponent_below_one(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const int exponent = static_cast<int>(bits >> 52) - 1023;
  return (bits & 0xFFFFFFFFFFFFFull) == 0 ? -exponent : -exponent - 1;
}

}  // namespace fairway
