// e4m3 (fn) storage: sign, 4 bits of exponent, 3 of mantissa; largest 448, no infinity, subnormals
// down to 2^-9.
#pragma once

#include <cstdint>

namespace fairway {

struct e4m3 {
  uint8_t bits = 0;
};

}  // namespace fairway
