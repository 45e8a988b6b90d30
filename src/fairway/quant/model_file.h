// A model from a file of either kind.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "fairway/model/weights.h"

namespace fairway {

struct ModelFile : LoadedModel {
  std::optional<uint64_t> tokenizer_hash;  // Tokenizer::hash(), where the file says
};

// Opens a `.safetensors` (metadata `config`, optionally `tokenizer_hash` in hexadecimal) or a
// `.fairway` (dequantized); told apart by content, not by name. Throws Error on anything malformed.
ModelFile load_any_model(const std::filesystem::path& path);
// The same of a file that is in memory; `path` names it in errors.
ModelFile load_any_model(std::span<const std::byte> file, const std::filesystem::path& path);

}  // namespace fairway
