// cuBLASLt's first choice is mostly 256x128, whose two consumers work on one tile: nothing covers
// its epilogue, which is a large part of a product with a small k. The rules are what was faster
// than the first choice on one H100 (cuBLASLt 13.1.0; 98,304 rows, head logits 2,048 to 8,192). The
// comments give the time saved. Timing at run time instead would make the choice, and with it the
// bits, depend on noise.
#include "fairway/device/cuda_matmul_choice.h"

#include <algorithm>
#include <limits>

namespace fairway {

namespace {

constexpr int64_t kAny = std::numeric_limits<int64_t>::max();

struct Range {
  int64_t from, to;
  bool contains(int64_t x) const { return from <= x && x <= to; }
};

struct Rule {
  bool rows_independent, adds;
  Range n, k;
  int tiles[2];  // the second where the first is not offered; 0: none
};

constexpr Rule kRules[] = {
    // n 256, 512 and 1024, k 512: 2%, 4 to 5%, 9%
    {true, false, {256, 1024}, {1, 512}, {kTile128x128, kTile176x128}},
    // n 2048, k 512: 19%
    {true, false, {1025, 4096}, {1, 512}, {kTile128x160, kTile176x128}},
    // n 8192, k 512: 8 to 15%
    {true, false, {4097, kAny}, {1, 512}, {kTile176x128, kTile128x160}},
    // n 512, k 1024 and 2048: 8%, 7%
    {true, false, {256, 512}, {513, 2048}, {kTile128x160, kTile128x128}},
    // n 512, k 512: 3%; with k 2048 nothing is faster than the first choice
    {true, true, {256, 512}, {1, 512}, {kTile128x128, 0}},
    // A weight's gradient, n 2048, k 98,304: 5%
    {false, true, {2048, kAny}, {65536, kAny}, {kTile192x128, 0}},
};

}  // namespace

size_t choose_kernel(const MatmulClass& product, std::span<const int> tiles) {
  for (const Rule& rule : kRules) {
    if (rule.rows_independent != product.rows_independent || rule.adds != product.adds ||
        !rule.n.contains(product.n) || !rule.k.contains(product.k))
      continue;
    for (const int wanted : rule.tiles) {
      const auto found = std::find(tiles.begin(), tiles.end(), wanted);
      if (wanted != 0 && found != tiles.end()) return static_cast<size_t>(found - tiles.begin());
    }
  }
  return 0;
}

}  // namespace fairway
