// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
// numbers: as easy as 1, 2, 3", SC'11). Number i of stream s under seed k is a pure function of (k,
// s, i), so a draw does not depend on how many threads or ranks share the work.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>

#include "fairway/base/host_device.h"

namespace fairway {

class Philox {
 public:
  // `stream` separates independent uses of one seed (one per tensor, one per document, …).
  FAIRWAY_HOST_DEVICE Philox(uint64_t seed, uint64_t stream) : key_(seed), stream_(stream) {}

  // Four 32-bit words for counter `i`.
  FAIRWAY_HOST_DEVICE std::array<uint32_t, 4> block(uint64_t i) const {
    std::array<uint32_t, 4> c{static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32),
                              static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)};
    uint32_t k0 = static_cast<uint32_t>(key_), k1 = static_cast<uint32_t>(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    return c;
  }

  FAIRWAY_HOST_DEVICE uint64_t bits(uint64_t i) const {
    const auto b = block(i / 2);
    const size_t j = (i % 2) * 2;
    return (uint64_t{b[j + 1]} << 32) | b[j];
  }

  // In [0, 1), 53 bits.
  FAIRWAY_HOST_DEVICE double uniform(uint64_t i) const {
    return static_cast<double>(bits(i) >> 11) * 0x1.0p-53;
  }

  // Standard normal (Box–Muller; numbers 2j and 2j+1 share one pair of uniforms).
  double normal(uint64_t i) const {
    const double u = 1.0 - uniform(i & ~uint64_t{1}), v = uniform(i | 1);
    const double radius = std::sqrt(-2.0 * std::log(u)), angle = 2.0 * std::numbers::pi * v;
    return radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
  }

  // In [0, n), n > 0, without bias worth speaking of (multiply-shift on 64 bits).
  uint64_t below(uint64_t i, uint64_t n) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(i)) * n) >> 64);
  }

 private:
  uint64_t key_, stream_;
};

}  // namespace fairway
