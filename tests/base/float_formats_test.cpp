// fp16, bf16 and e4m3, exhaustively: every value survives a round trip, and between every two
// neighbours the boundary lies exactly in the middle, which itself goes to the even one.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fairway/base/bf16.h"
#include "fairway/base/e4m3.h"
#include "fairway/base/fp16.h"

namespace fairway {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

// `decode` and `encode` of a 16-bit format whose largest finite positive value has bits `largest`.
template <class Decode, class Encode>
void check_rounding(uint32_t largest, float past_largest, Decode decode, Encode encode) {
  for (uint32_t lower = 0; lower <= largest; ++lower) {
    const uint32_t upper = lower + 1;
    const float a = decode(static_cast<uint16_t>(lower));
    const double b =
        lower == largest ? double{past_largest} : double{decode(static_cast<uint16_t>(upper))};
    ASSERT_EQ(encode(a), lower);
    ASSERT_EQ(encode(-a), lower | 0x8000u);
    const double middle = (a + b) / 2;
    const float tie = static_cast<float>(middle);
    if (double{tie} != middle) continue;  // bf16's smallest: the middle is no float
    ASSERT_EQ(encode(tie), lower % 2 == 0 ? lower : upper) << lower;
    ASSERT_EQ(encode(std::nextafter(tie, 0.0f)), lower) << lower;
    ASSERT_EQ(encode(std::nextafter(tie, kInf)), upper) << lower;
    ASSERT_EQ(encode(-tie), (lower % 2 == 0 ? lower : upper) | 0x8000u) << lower;
  }
}

TEST(Fp16, RoundsToNearestEvenEverywhere) {
  check_rounding(0x7BFF, 65536.0f, fp16_to_float, float_to_fp16);
}

TEST(Fp16, KnownValues) {
  EXPECT_TRUE(same(fp16_to_float(0x3C00), 1.0f));
  EXPECT_TRUE(same(fp16_to_float(0xC000), -2.0f));
  EXPECT_TRUE(same(fp16_to_float(0x0001), 0x1p-24f));
  EXPECT_TRUE(same(fp16_to_float(0x7BFF), 65504.0f));
  EXPECT_TRUE(same(fp16_to_float(0x8000), -0.0f));
  EXPECT_EQ(float_to_fp16(1e-30f), 0u);
  EXPECT_EQ(float_to_fp16(1e30f), 0x7C00u);
  EXPECT_EQ(float_to_fp16(-kInf), 0xFC00u);
  EXPECT_TRUE(same(fp16_to_float(0x7C00), kInf));
}

TEST(Fp16, NanStaysNan) {
  for (uint32_t h = 0x7C01; h < 0x8000; ++h) {
    const float f = fp16_to_float(static_cast<uint16_t>(h));
    ASSERT_TRUE(std::isnan(f));
    ASSERT_TRUE(std::isnan(fp16_to_float(float_to_fp16(f))));
  }
}

float bf16_decode(uint16_t bits) {
  bf16 x;
  x.bits = bits;
  return static_cast<float>(x);
}

TEST(Bf16, RoundsToNearestEvenEverywhere) {
  // Past the largest finite bf16, the rounding boundary is 2^128's half step below: no float is
  // there.
  check_rounding(0x7F7E, bf16_decode(0x7F7F), bf16_decode,
                 [](float f) -> uint32_t { return bf16(f).bits; });
  EXPECT_EQ(bf16(std::numeric_limits<float>::max()).bits, 0x7F80u);
}

TEST(Bf16, NanAndInfinityStay) {
  for (uint32_t bits = 0x7F80; bits < 0x8000; ++bits) {
    const float f = bf16_decode(static_cast<uint16_t>(bits));
    ASSERT_EQ(std::isnan(static_cast<float>(bf16(f))), std::isnan(f));
    ASSERT_EQ(std::isinf(static_cast<float>(bf16(f))), std::isinf(f));
  }
  // A NaN whose upper half is all exponent must not become infinity.
  EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7F800001u)))));
}

// The value of a code, from the format's definition.
template <class F>
F e4m3_value(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  return exponent == 0 ? std::ldexp(F(mantissa), -9) : std::ldexp(F(8 + mantissa), exponent - 10);
}

template <class F>
void check_e4m3() {
  constexpr F inf = std::numeric_limits<F>::infinity();
  const auto expect = [](F x, F want) {
    ASSERT_EQ(round_to_e4m3(x), want) << x;
    ASSERT_EQ(round_to_e4m3(-x), -want) << x;
    ASSERT_EQ(std::signbit(round_to_e4m3(-x)), true) << x;
  };
  for (int code = 0; code < 0x7E; ++code) {
    const F lower = e4m3_value<F>(code), upper = e4m3_value<F>(code + 1);
    const F middle = (lower + upper) / 2;
    expect(lower, lower);
    expect(middle, code % 2 == 0 ? lower : upper);
    expect(std::nextafter(middle, F(0)), lower);
    expect(std::nextafter(middle, inf), upper);
  }
  expect(F(448), F(448));
  for (const F x : {F(449), F(463.9), F(464), F(1e5), std::numeric_limits<F>::max(), inf})
    expect(x, F(448));
  expect(std::numeric_limits<F>::denorm_min(), F(0));
  EXPECT_TRUE(std::isnan(round_to_e4m3(std::numeric_limits<F>::quiet_NaN())));
}

TEST(E4m3, RoundsToNearestEvenAndSaturates) {
  check_e4m3<float>();
  check_e4m3<double>();
}

TEST(E4m3, CodesInMemory) {
  for (int code = 0; code < 0x7F; ++code) {
    const auto value = e4m3_value<float>(code);
    EXPECT_EQ(to_e4m3(value).bits, code);
    EXPECT_EQ(to_e4m3(-value).bits, code | 0x80);
    EXPECT_EQ(to_e4m3(std::nextafter(value, 0.0f)).bits, code);  // rounds up again
  }
  EXPECT_EQ(to_e4m3(kInf).bits, 0x7E);
  EXPECT_EQ(to_e4m3(std::numeric_limits<float>::quiet_NaN()).bits & 0x7F, 0x7F);
}

TEST(E4m3, LargestExponentThatDoesNotSaturate) {
  EXPECT_EQ(e4m3_exponent(0), kE4m3MaxExponent);
  EXPECT_EQ(e4m3_exponent(std::numeric_limits<float>::quiet_NaN()), 0);
  EXPECT_EQ(e4m3_exponent(448), 0);
  EXPECT_EQ(e4m3_exponent(std::nextafter(448.0f, kInf)), -1);
  EXPECT_EQ(e4m3_exponent(224), 1);
  EXPECT_EQ(e4m3_exponent(1), 8);
  EXPECT_EQ(e4m3_exponent(0x1p-126f), kE4m3MaxExponent);
  EXPECT_EQ(e4m3_exponent(std::numeric_limits<float>::denorm_min()), kE4m3MaxExponent);
  EXPECT_EQ(e4m3_exponent(std::numeric_limits<float>::max()), -kE4m3MaxExponent);
  for (float x = 0x1p-50f; x < 0x1p60f; x *= 1.0937f) {
    const int e = e4m3_exponent(x);
    EXPECT_LE(std::ldexp(x, e), 448) << x;
    EXPECT_GT(std::ldexp(x, e + 1), 448) << x;
    EXPECT_EQ(std::ldexp(1.0f, e), power_of_two(e));
  }
  for (double x = 0x1p-50; x < 0x1p60; x *= 1.0937) {
    EXPECT_LE(std::ldexp(x, exponent_below_one(x)), 1) << x;
    EXPECT_GT(std::ldexp(x, exponent_below_one(x) + 1), 1) << x;
  }
  EXPECT_EQ(exponent_below_one(4), -2);
  EXPECT_EQ(exponent_below_one(0.25), 2);
}

TEST(E4m3, ScalesCostNoRounding) {
  for (const int e : {-2 * kE4m3MaxExponent, -3, 0, 5, 2 * kE4m3MaxExponent})
    for (int code = 0; code < 0x7F; ++code) {
      const float x = std::ldexp(e4m3_value<float>(code), -e);
      EXPECT_EQ(as_e4m3(x, e), x);
      EXPECT_EQ(as_e4m3(double{x}, e), x);
      EXPECT_EQ(static_cast<float>(bf16(x)), x);
    }
}

}  // namespace
}  // namespace fairway
