// One adaptive binary probability.
#pragma once

#include <cstdint>

#include "fairway/quant/range_coder.h"

namespace fairway {

// A bit whose probability adapts.
class AdaptiveBit {
 public:
  uint32_t below(int x) const {
    return x <= 0 ? 0 : x >= 2 ? kFrequencyTotal : kFrequencyTotal - one_;
  }
  int find(uint32_t at) const { return at >= kFrequencyTotal - one_; }
  void learn(int bit) {
    if (seen_ < 60) ++seen_;
    const uint32_t target = bit ? kFrequencyTotal - kFrequencyTotal / 512 : kFrequencyTotal / 512;
    // Numerators stay below 2^24 either way, so the difference fits.
    one_ = static_cast<uint32_t>(static_cast<int32_t>(one_) +
                                 (static_cast<int32_t>(target) - static_cast<int32_t>(one_)) /
                                     (seen_ + 1));
  }

 private:
  uint32_t one_ = kFrequencyTotal / 2;
  int32_t seen_ = 1;
};

}  // namespace fairway
