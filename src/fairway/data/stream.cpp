#include "fairway/data/stream.h"

#include <algorithm>

#include "fairway/base/check.h"

namespace fairway {

TokenStream::TokenStream(std::span<const std::filesystem::path> shards, int vocab_size)
    : start_{0} {
  require(!shards.empty(), "no shards were named");
  for (const auto& path : shards) {
    shards_.emplace_back(path, vocab_size);
    start_.push_back(start_.back() + static_cast<int64_t>(shards_.back().tokens().size()));
  }
  require(size() > 0, "{}: no tokens in these shards", shards.front().string());
}

uint16_t TokenStream::operator[](int64_t i) const {
  const auto shard = std::upper_bound(start_.begin(), start_.end(), i) - start_.begin() - 1;
  return shards_[static_cast<size_t>(shard)]
      .tokens()[static_cast<size_t>(i - start_[static_cast<size_t>(shard)])];
}

void TokenStream::copy(int64_t begin, int64_t count, int32_t* out) const {
  check(begin >= 0 && count >= 0 && begin + count <= size(), "TokenStream::copy: out of range");
  auto shard = static_cast<size_t>(std::upper_bound(start_.begin(), start_.end(), begin) -
                                   start_.begin() - 1);
  while (count > 0) {
    const int64_t n = std::min(count, start_[shard + 1] - begin);
    const auto piece = shards_[shard].tokens().subspan(static_cast<size_t>(begin - start_[shard]),
                                                       static_cast<size_t>(n));
    out = std::copy(piece.begin(), piece.end(), out);
    begin += n;
    count -= n;
    ++shard;
  }
}

std::vector<int64_t> TokenStream::find(uint16_t token) const {
  std::vector<int64_t> positions;
  for (size_t s = 0; s < shards_.size(); ++s) {
    const auto tokens = shards_[s].tokens();
    for (auto it = std::find(tokens.begin(), tokens.end(), token); it != tokens.end();
         it = std::find(it + 1, tokens.end(), token))
      positions.push_back(start_[s] + (it - tokens.begin()));
  }
  return positions;
}

}  // namespace fairway
