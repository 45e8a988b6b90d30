// Several shards seen as one stream of tokens, for evaluation and calibration.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "fairway/data/shard.h"

namespace fairway {

class TokenStream {
 public:
  // Maps every shard; throws Error as ShardFile does, and if there are no tokens at all.
  explicit TokenStream(std::span<const std::filesystem::path> shards, int vocab_size = 0);

  int64_t size() const { return start_.back(); }
  uint16_t operator[](int64_t i) const;

  // out[0 … count) = tokens [begin, begin + count), which must lie inside the stream.
  void copy(int64_t begin, int64_t count, int32_t* out) const;

  // Positions of `token` in ascending order: of bos, the starts of the documents.
  std::vector<int64_t> find(uint16_t token) const;

 private:
  std::vector<ShardFile> shards_;
  std::vector<int64_t> start_;  // [shards + 1] position of each shard's first token, then size()
};

}  // namespace fairway
