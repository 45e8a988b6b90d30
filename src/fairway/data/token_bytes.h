// How many bytes of text a token stands for: the denominator of bits per byte. SPEC §2, "Bytes of a
// token".
#pragma once

#include <cstdint>
#include <vector>

#include "fairway/data/tokenizer.h"

namespace fairway {

struct TokenBytes {
  std::vector<int32_t> base;           // [V] bytes of the piece without its leading ▁
  std::vector<uint8_t> leading_space;  // [V] 1: the piece has a leading ▁
  std::vector<uint8_t>
      boundary;  // [V] 1: control, unknown or unused: 0 bytes, and no space after it

  TokenBytes() = default;
  // Throws Error if the tokenizer has no piece `▁`: spaces would be counted wrongly.
  explicit TokenBytes(const Tokenizer& tokenizer);

  int vocab_size() const { return static_cast<int>(base.size()); }

  // Bytes of `token` when `previous` stands before it in the stream. Both must be < V.
  int32_t bytes(int32_t token, int32_t previous) const {
    const auto t = static_cast<size_t>(token), p = static_cast<size_t>(previous);
    return base[t] + (leading_space[t] & (boundary[p] ^ 1));
  }
};

}  // namespace fairway
