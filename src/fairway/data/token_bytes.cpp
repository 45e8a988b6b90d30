#include "fairway/data/token_bytes.h"

#include <string_view>

#include "fairway/base/check.h"

namespace fairway {

namespace {
constexpr std::string_view kSpace = "\u2581";  // ▁
}

TokenBytes::TokenBytes(const Tokenizer& tokenizer) {
  const int vocab = tokenizer.vocab_size();
  bool has_space = tokenizer.is_byte_tokenizer();
  for (int i = 0; i < vocab; ++i) {
    const std::string_view piece = tokenizer.piece(i);
    const PieceKind kind = tokenizer.kind(i);
    const bool text = kind == PieceKind::text;
    const bool space = text && piece.starts_with(kSpace);
    has_space |= text && piece == kSpace;
    boundary.push_back(kind == PieceKind::control);
    leading_space.push_back(space);
    base.push_back(text ? static_cast<int32_t>(piece.size() - (space ? kSpace.size() : 0))
                        : kind == PieceKind::byte);
  }
  require(
      has_space,
      "the tokenizer has no piece '▁' for the space, so the bytes of its tokens cannot be counted; "
      "train one on text with spaces");
}

}  // namespace fairway
