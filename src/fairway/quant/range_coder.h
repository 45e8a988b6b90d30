// A range coder: numbers in [0, 2^24) stand for symbols, a symbol with frequency f of 2^24 costs
// 24 − log2 f bits, to within 2^-24 of it. Integers only: the same bytes and symbols on any
// machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fairway {

inline constexpr int kFrequencyBits = 24;
inline constexpr uint32_t kFrequencyTotal = uint32_t{1} << kFrequencyBits;

// After G. N. N. Martin, "Range encoding" (1979): a 64-bit interval, shifted out 16 bits at a time,
// so that it is never shorter than 2^48.
class RangeEncoder {
 public:
  // The symbol that owns [low, low + size) of [0, 2^24); size > 0.
  void encode(uint32_t low, uint32_t size) {
    const uint64_t unit = range_ >> kFrequencyBits;
    add(unit * low);
    // The last symbol takes what the division left over.
    range_ = low + size == kFrequencyTotal ? range_ - unit * low : unit * size;
    while (range_ < kLeast) {
      push();
      range_ <<= 16;
    }
  }

  // Ends the stream: the fewest bytes that decode, given that a decoder reads zeros past the end.
  std::vector<std::byte> finish();

 private:
  static constexpr uint64_t kLeast = uint64_t{1} << 48;

  void add(uint64_t amount) {
    low_ += amount;
    if (low_ < amount)  // carry into what was put out
      for (size_t i = words_.size(); i-- > 0 && ++words_[i] == 0;) {
      }
  }
  void push() {
    words_.push_back(static_cast<uint16_t>(low_ >> 48));
    low_ <<= 16;
  }

  uint64_t low_ = 0, range_ = ~uint64_t{0};
  std::vector<uint16_t> words_;
};

class RangeDecoder {
 public:
  // `bytes` must outlive the decoder. Past their end it reads zeros.
  explicit RangeDecoder(std::span<const std::byte> bytes) : bytes_(bytes) {
    for (int i = 0; i < 4; ++i) value_ = (value_ << 16) | next();
  }

  // Where in [0, 2^24) the next symbol's interval lies.
  uint32_t peek() const {
    const uint64_t at = value_ / (range_ >> kFrequencyBits);
    return at < kFrequencyTotal ? static_cast<uint32_t>(at) : kFrequencyTotal - 1;
  }

  // Takes the symbol that owns [low, low + size), which holds peek().
  void take(uint32_t low, uint32_t size) {
    const uint64_t unit = range_ >> kFrequencyBits;
    value_ -= unit * low;
    range_ = low + size == kFrequencyTotal ? range_ - unit * low : unit * size;
    while (range_ < kLeast) {
      value_ = (value_ << 16) | next();
      range_ <<= 16;
    }
  }

 private:
  static constexpr uint64_t kLeast = uint64_t{1} << 48;

  uint64_t next() {
    uint64_t word = 0;
    for (int i = 0; i < 2; ++i) {
      word <<= 8;
      if (at_ < bytes_.size()) word |= static_cast<uint64_t>(bytes_[at_]);
      ++at_;
    }
    return word;
  }

  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  uint64_t value_ = 0, range_ = ~uint64_t{0};
};

// Counts bits instead of writing them: what a choice would cost.
class BitCounter {
 public:
  void encode(uint32_t low, uint32_t size);
  double bits() const { return bits_; }

 private:
  double bits_ = 0;
};

}  // namespace fairway
