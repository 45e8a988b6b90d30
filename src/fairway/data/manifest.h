// `<set>.json` beside the shards of a set: what they hold and which tokenizer made them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/data/tokenizer.h"

namespace fairway {

struct ShardManifest {
  struct Split {
    int64_t documents = 0, tokens = 0;
    int64_t bytes = 0;                // of UTF-8 text
    std::vector<std::string> shards;  // file names
  };
  std::string set;
  uint64_t tokenizer_hash = 0;
  int vocab_size = 0;
  int bos = 1;
  int64_t empty_documents = 0;  // met and skipped
  Split train, val;
};

void write_manifest(const std::filesystem::path& path, const ShardManifest& manifest);
// Throws Error, naming the file, if it is not a manifest.
ShardManifest read_manifest(const std::filesystem::path& path);
// The same from the text of the file; `where` names it in errors.
ShardManifest parse_manifest(std::string_view text, const std::string& where);

// The manifest of the set that a shard named `<set>_train_000000.bin` belongs to, if it lies beside
// it and lists that shard.
std::optional<ShardManifest> find_manifest(const std::filesystem::path& shard);

// Throws Error if a shard's manifest names another tokenizer. Shards without a manifest pass.
void check_tokenizer_matches(std::span<const std::filesystem::path> shards,
                             const Tokenizer& tokenizer);

}  // namespace fairway
