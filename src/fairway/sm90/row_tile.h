// Row tiles of a product in which every document has a matrix of its own: they start anew at each
// document.
#pragma once

#include <cstdint>

namespace fairway::sm90 {

// Rows [begin, end) of document `doc`. Tiles come in groups, those with rows first; one without
// rows has document −1 if the group's first has none either.
struct alignas(16) RowTile {
  int32_t begin, end, doc, unused;
};

}  // namespace fairway::sm90
