// Integer Gaussians: the probability that a normal variable, rounded, is x. Fixed point throughout,
// so that an encoder and a decoder on different machines agree to the last bit.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "fairway/quant/range_coder.h"

namespace fairway {

// Variances are in 1/4096 (Q12), means in 1/256 (Q8).
inline constexpr int kVarianceBits = 12, kMeanBits = 8;

// How much heavier than a normal one the tails are: the distribution is a mix of three normals with
// weights 1/6, 4/6, 1/6 and deviations σ/a, σ, σa.
inline constexpr int kShapes = 4;  // a = 1, 1.19, 1.54, 2.4

// Tables of Φ and 1/√.
class NormalTables {
 public:
  static const NormalTables& get();

  // F(z) in 1/2^24 for z in 1/2^16; non-decreasing, 0 and 2^24 far out.
  uint32_t cdf(int shape, int64_t z) const {
    const uint64_t distance = static_cast<uint64_t>(z < 0 ? -z : z);
    const uint64_t index = distance >> 8;
    if (index >= kSteps) return z < 0 ? 0 : kFrequencyTotal;
    const auto& table = half_[static_cast<size_t>(shape)];
    const uint32_t a = table[index], b = table[index + 1];
    const uint32_t above = a + static_cast<uint32_t>(((b - a) * (distance & 255)) >> 8);
    return z < 0 ? kFrequencyTotal / 2 - above : kFrequencyTotal / 2 + above;
  }

  // 1/√v in 1/2^16 for a variance v > 0 in Q12.
  uint64_t inverse_deviation(uint64_t v) const {
    // v = m · 4^s with m in [256, 1024).
    const int s = (std::bit_width(v) - 9) >> 1;
    const uint64_t m = s >= 0 ? v >> (2 * s) : v << (-2 * s);
    const int shift = 8 + s;  // 2^22/√v = (2^30/√m) / 2^(8+s)
    return inverse_root_[m - 256] >> shift;
  }

 private:
  NormalTables();
  static constexpr uint64_t kSteps = 4096;  // 1/256 σ each, up to 16 σ

  std::array<std::array<uint32_t, kSteps + 1>, kShapes> half_;  // F(z) − 1/2
  std::array<uint64_t, 768> inverse_root_;                      // 2^30/√m
};

// A distribution over the integers lo … hi: the Gaussian, everything beyond the ends in the ends,
// and one part in 2^24 added to each so that nothing is impossible. At most 2^20 integers.
struct DiscreteGaussian {
  const NormalTables* tables;
  int lo, hi, shape;
  int64_t mean;      // Q8
  uint64_t inverse;  // 1/σ in 1/2^16

  DiscreteGaussian(const NormalTables& t, int low, int high, int s, int64_t mean_q8,
                   uint64_t variance_q12)
      : tables(&t),
        lo(low),
        hi(high),
        shape(s),
        mean(mean_q8),
        inverse(t.inverse_deviation(variance_q12)) {}

  // The frequencies of lo … x − 1 together, of 2^24.
  uint32_t below(int x) const {
    if (x <= lo) return 0;
    if (x > hi) return kFrequencyTotal;
    const int64_t edge = (int64_t{x} << kMeanBits) - (1 << (kMeanBits - 1)) - mean;
    const int64_t z = (edge * static_cast<int64_t>(inverse)) >> kMeanBits;
    const uint64_t f = tables->cdf(shape, z);
    const auto count = static_cast<uint32_t>(hi - lo + 1);
    return static_cast<uint32_t>((f * (kFrequencyTotal - count)) >> kFrequencyBits) +
           static_cast<uint32_t>(x - lo);
  }

  // The x whose interval holds `at` of [0, 2^24).
  int find(uint32_t at) const {
    int a = lo, b = hi + 1;  // below(a) <= at < below(b)
    while (b - a > 1) {
      const int middle = a + (b - a) / 2;
      if (below(middle) <= at)
        a = middle;
      else
        b = middle;
    }
    return a;
  }
};

// One model, three uses: `codec(distribution, x)` writes x, reads and returns it, or counts its
// bits.
struct Encode {
  RangeEncoder& coder;
  template <class D>
  int operator()(const D& d, int x) const {
    const uint32_t low = d.below(x);
    coder.encode(low, d.below(x + 1) - low);
    return x;
  }
};
struct Decode {
  RangeDecoder& coder;
  template <class D>
  int operator()(const D& d, int) const {
    const int x = d.find(coder.peek());
    const uint32_t low = d.below(x);
    coder.take(low, d.below(x + 1) - low);
    return x;
  }
};
struct Count {
  BitCounter& coder;
  template <class D>
  int operator()(const D& d, int x) const {
    const uint32_t low = d.below(x);
    coder.encode(low, d.below(x + 1) - low);
    return x;
  }
};

}  // namespace fairway
