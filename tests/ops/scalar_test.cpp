// The vectorisable exp and tanh against libm in double, over their whole range.
#include "fairway/ops/scalar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fairway/base/bf16.h"

namespace fairway {
namespace {

TEST(Scalar, ExpIsAccurateToTwoUlps) {
  for (double x = -86.9; x < 88; x += 1.0 / 512) {
    const auto f = static_cast<float>(x);
    const double want = std::exp(static_cast<double>(f));
    EXPECT_LE(std::fabs(exp_(f) - want), 2.5 * 0x1p-23 * want) << f;
  }
  EXPECT_EQ(exp_(0.0f), 1.0f);
  EXPECT_EQ(exp_(-100.0f), 0.0f);
  EXPECT_EQ(exp_(-INFINITY), 0.0f);
}

TEST(Scalar, TanhIsAccurateAndOdd) {
  for (double x = -20; x < 20; x += 1.0 / 1024) {
    const auto f = static_cast<float>(x);
    const double want = std::tanh(static_cast<double>(f));
    EXPECT_LE(std::fabs(tanh_(f) - want), 4 * 0x1p-23 * std::fabs(want)) << f;
    EXPECT_EQ(tanh_(-f), -tanh_(f));
  }
}

// A loop's vector lanes and its scalar tail must give the same bits, or a row's result would depend
// on where it lies.
TEST(Scalar, LoopsGiveTheSameBitsInEveryLane) {
  constexpr size_t kMost = 77;
  for (size_t n = 1; n < kMost; ++n) {
    std::vector<float> in(n), e(n), t(n);
    for (size_t i = 0; i < n; ++i) in[i] = 0.37f * static_cast<float>(i) - 9.0f;
#pragma omp simd
    for (size_t i = 0; i < n; ++i) {
      e[i] = exp_(in[i]);
      t[i] = tanh_(in[i]);
    }
    for (size_t i = 0; i < n; ++i) {
      volatile float one = in[i];
      EXPECT_EQ(e[i], exp_(one));
      EXPECT_EQ(t[i], tanh_(one));
    }
  }
}

TEST(Scalar, RoundingToBf16IsTheSameInBulkAndAlone) {
  std::vector<float> from;
  for (int i = 0; i < 1000; ++i)
    from.push_back(std::ldexp(1.0f + static_cast<float>(i) / 997.0f, i % 60 - 30));
  std::vector<bf16> to(from.size());
  for (size_t n : {size_t{1}, size_t{31}, size_t{32}, size_t{33}, from.size()}) {
    round_to_bf16(from.data(), static_cast<int64_t>(n), to.data());
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(to[i].bits, bf16(from[i]).bits) << from[i];
  }
}

}  // namespace
}  // namespace fairway
