#include "fairway/quant/gaussian.h"

#include <algorithm>

namespace fairway {

namespace {

// ⌊√n⌋
uint64_t integer_root(unsigned __int128 n) {
  uint64_t root = 0;
  for (int bit = 63; bit >= 0; --bit) {
    const uint64_t next = root | (uint64_t{1} << bit);
    if (static_cast<unsigned __int128>(next) * next <= n) root = next;
  }
  return root;
}

uint64_t times(uint64_t a, uint64_t b) {  // of numbers in 1/2^62
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 62);
}

}  // namespace

const NormalTables& NormalTables::get() {
  static const NormalTables tables;
  return tables;
}

NormalTables::NormalTables() {
  // Φ(z) − 1/2 = ∫ φ by the trapezoid rule with step h = 1/256; φ(z) ∝ exp(−z²/2) by the recurrence
  // g(k+1) = g(k) r(k), r(k+1) = r(k) exp(−h²), in units of 2^-62.
  constexpr uint64_t kRatio = 0x3FFFE00007FFFEAB;  // exp(−h²/2) · 2^62, h = 1/256
  const uint64_t squared = times(kRatio, kRatio);  // exp(−h²)
  std::array<unsigned __int128, kSteps + 1> area;
  uint64_t g = uint64_t{1} << 62, r = kRatio;
  area[0] = 0;
  for (size_t k = 0; k < kSteps; ++k) {
    const uint64_t next = times(g, r);
    area[k + 1] = area[k] + g + next;
    g = next;
    r = times(r, squared);
  }
  for (size_t k = 0; k <= kSteps; ++k)
    half_[0][k] = static_cast<uint32_t>(
        ((area[k] >> 16) * (kFrequencyTotal / 2) + (area[kSteps] >> 17)) / (area[kSteps] >> 16));

  constexpr std::array<uint64_t, kShapes> kSpread = {256, 305, 394, 614};  // a, in 1/256
  for (size_t shape = 1; shape < kShapes; ++shape)
    for (size_t k = 0; k <= kSteps; ++k) {
      const auto at = [&](uint64_t z256) {  // half_[0] at z = z256/256 in units of 1/256
        const uint64_t index = z256 >> 8, rest = z256 & 255;
        if (index >= kSteps) return uint64_t{kFrequencyTotal / 2};
        return (half_[0][index] * (256 - rest) + half_[0][index + 1] * rest) >> 8;
      };
      const uint64_t a = kSpread[shape];
      half_[shape][k] =
          static_cast<uint32_t>((at(k * a) + at(k * 65536 / a) + 4 * at(k * 256)) / 6);
    }
  for (uint64_t m = 256; m < 1024; ++m)
    inverse_root_[m - 256] = integer_root((static_cast<unsigned __int128>(1) << 60) / m);
}

}  // namespace fairway
