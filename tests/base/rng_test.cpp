#include "fairway/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace fairway {
namespace {

using Block = std::array<uint32_t, 4>;

// The known-answer vectors of the authors' library (Random123, kat_vectors, philox4x32 10 rounds).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox(0, 0).block(0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint64_t ones = ~uint64_t{0};
  EXPECT_EQ(Philox(ones, ones).block(ones),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0: low words come first.
  EXPECT_EQ(Philox(0x299f31d0a4093822, 0x0370734413198a2e).block(0x85a308d3243f6a88),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, BitsAreTheBlocksWordsInOrder) {
  const Philox rng(7, 9);
  for (uint64_t i = 0; i < 8; ++i) {
    const Block b = rng.block(i / 2);
    const size_t j = (i % 2) * 2;
    EXPECT_EQ(rng.bits(i), (uint64_t{b[j + 1]} << 32) | b[j]);
  }
}

TEST(Philox, SeedsStreamsAndCountersDiffer) {
  std::set<uint64_t> seen;
  for (uint64_t seed = 0; seed < 8; ++seed)
    for (uint64_t stream = 0; stream < 8; ++stream)
      for (uint64_t i = 0; i < 64; ++i) seen.insert(Philox(seed, stream).bits(i));
  EXPECT_EQ(seen.size(), 8u * 8u * 64u);
}

// Sample moments within five standard errors of the distribution's.
TEST(Philox, UniformMoments) {
  const Philox rng(1, 2);
  const int n = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform(static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(squares / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
}

TEST(Philox, NormalMoments) {
  const Philox rng(3, 4);
  const int n = 100000;
  double sum = 0, squares = 0, fourth = 0, neighbours = 0;
  for (int i = 0; i < n; ++i) {
    const double z = rng.normal(static_cast<uint64_t>(i));
    sum += z;
    squares += z * z;
    fourth += z * z * z * z;
    neighbours += z * rng.normal(static_cast<uint64_t>(i) + 1);
  }
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(fourth / n, 3, 5 * std::sqrt(96.0 / n));
  EXPECT_NEAR(neighbours / n, 0, 5 / std::sqrt(n));
}

TEST(Philox, BelowStaysBelowAndReachesEverything) {
  const Philox rng(5, 6);
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t v = rng.below(i, 10);
    ASSERT_LT(v, 10u);
    seen.insert(v);
  }
  EXPECT_EQ(seen.size(), 10u);
  EXPECT_EQ(rng.below(0, 1), 0u);
}

}  // namespace
}  // namespace fairway
