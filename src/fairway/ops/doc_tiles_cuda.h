// Tiles of rows that start anew at each document, found on the device: the host knows only how
// many there can be. Internal to ops/; for nvcc.
#pragma once

#include <cstdint>

namespace fairway {

struct DocTile {
  int64_t begin = 0;  // first row, counted from doc_rows[0]
  int doc = -1, rows = 0;
  int number = 0;  // of this tile among its document's
};

// Tiles of at most kRows rows that `docs` documents of `rows` rows together can have.
template <int kRows>
inline unsigned most_doc_tiles(int64_t rows, int64_t docs) {
  return static_cast<unsigned>(rows / kRows + docs);
}

// Tile number `index`, in document order; doc −1 and no rows if there are fewer. Called by whole
// warps. With kEmptyToo a document without rows has one tile as well.
template <int kRows, bool kEmptyToo = false>
__device__ DocTile find_doc_tile(const int32_t* doc_rows, int docs, int index) {
  constexpr unsigned kAll = 0xFFFFFFFFu;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int base = 0; base < docs; base += 32) {
    const int doc = base + lane;
    const int begin = doc < docs ? doc_rows[doc] : 0, end = doc < docs ? doc_rows[doc + 1] : 0;
    int tiles = (end - begin + kRows - 1) / kRows;
    if (kEmptyToo && tiles == 0 && doc < docs) tiles = 1;
    int sum = tiles;  // of this document and those before it among the 32
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(kAll, sum, offset);
      if (lane >= offset) sum += before;
    }
    const unsigned past = __ballot_sync(kAll, index < sum);
    if (past) {
      const int owner = __ffs(static_cast<int>(past)) - 1;
      const int tile = index - (__shfl_sync(kAll, sum, owner) - __shfl_sync(kAll, tiles, owner));
      const int owner_begin = __shfl_sync(kAll, begin, owner) + tile * kRows;
      const int left = __shfl_sync(kAll, end, owner) - owner_begin;
      return {owner_begin - int64_t{doc_rows[0]}, base + owner, left < kRows ? left : kRows, tile};
    }
    index -= __shfl_sync(kAll, sum, 31);
  }
  return {};
}

}  // namespace fairway
