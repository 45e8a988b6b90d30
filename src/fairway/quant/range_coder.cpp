#include "fairway/quant/range_coder.h"

#include <cmath>

namespace fairway {

std::vector<std::byte> RangeEncoder::finish() {
  // Any value in [low, low + range) will do: the one with the most trailing zeros.
  for (int zeros = 63; zeros >= 0; --zeros) {
    const uint64_t mask = (uint64_t{1} << zeros) - 1;
    const uint64_t amount = (~low_ + 1) & mask;  // up to the next multiple of 2^zeros
    if (amount < range_) {
      add(amount);
      break;
    }
  }
  for (int i = 0; i < 4; ++i) push();
  std::vector<std::byte> bytes;
  bytes.reserve(words_.size() * 2);
  for (uint16_t word : words_) {
    bytes.push_back(static_cast<std::byte>(word >> 8));
    bytes.push_back(static_cast<std::byte>(word & 0xFF));
  }
  while (!bytes.empty() && bytes.back() == std::byte{0}) bytes.pop_back();
  return bytes;
}

void BitCounter::encode(uint32_t, uint32_t size) {
  bits_ += kFrequencyBits - std::log2(static_cast<double>(size));
}

}  // namespace fairway
