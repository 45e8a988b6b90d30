// Training a SentencePiece tokenizer with the options of SPEC §2.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/data/text_input.h"

namespace fairway {

enum class Normalization { identity, nmt_nfkc };
inline constexpr std::array<std::string_view, 2> names(Normalization) {
  return {"identity", "nmt_nfkc"};
}

struct TokenizerTraining {
  std::vector<std::string> inputs;  // as find_text_files takes them
  int vocab_size = 8192;            // 260: the byte tokenizer, which needs no inputs
  Normalization normalization = Normalization::identity;
  int64_t max_bytes = int64_t{1} << 30;  // of text: documents after that many bytes are not read
  TextOptions text;
};

// Trains and writes `out`, atomically. The same documents and options give the same file.
// Throws Error if there is no text, or too little for the vocabulary.
void train_tokenizer(const TokenizerTraining& options, const std::filesystem::path& out);

}  // namespace fairway
