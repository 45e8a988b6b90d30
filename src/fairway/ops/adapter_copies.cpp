#include "fairway/ops/adapter_copies.h"

#include <algorithm>

#include "fairway/base/check.h"

namespace fairway {

namespace {

constexpr int64_t kTileRows = 128, kGroup = 2;  // of the product's kernels (sm90/row_tile.h)

}  // namespace

int64_t num_adapter_row_tiles(int64_t rows, int64_t docs) {
  return (rows / kTileRows + docs + kGroup - 1) / kGroup * kGroup;
}

std::vector<int32_t> adapter_row_tiles(std::span<const int32_t> doc_rows) {
  const auto docs = static_cast<int32_t>(std::ssize(doc_rows) - 1);
  const int32_t first = doc_rows.front();
  const int64_t count = num_adapter_row_tiles(doc_rows.back() - first, docs);
  std::vector<int32_t> tiles;
  tiles.reserve(static_cast<size_t>(4 * count));
  for (int32_t doc = 0; doc < docs; ++doc) {
    const auto at = static_cast<size_t>(doc);
    for (int32_t begin = doc_rows[at]; begin < doc_rows[at + 1]; begin += kTileRows)
      tiles.insert(
          tiles.end(),
          {begin - first, std::min<int32_t>(begin + kTileRows, doc_rows[at + 1]) - first, doc, 0});
  }
  check(std::ssize(tiles) <= 4 * count, "adapter_row_tiles: more than there can be");
  // The one that completes a group has a document, the groups without rows have none.
  while (std::ssize(tiles) < 4 * count) {
    const bool completes = std::ssize(tiles) / 4 % kGroup != 0 && tiles[tiles.size() - 2] >= 0;
    tiles.insert(tiles.end(), {0, 0, completes ? 0 : -1, 0});
  }
  return tiles;
}

}  // namespace fairway
