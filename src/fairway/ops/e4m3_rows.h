// Rows as e4m3 operands, each with a scale of its own.
#pragma once

#include <cstdint>

#include "fairway/base/e4m3.h"
#include "fairway/base/tensor.h"

namespace fairway {

// Q(x·2^e), Q rounding to e4m3 and e = e4m3_exponent of the row's largest magnitude. Device memory,
// not owned.
struct E4m3Rows {
  Tensor<e4m3> x;             // [T, D]
  Tensor<int32_t> exponents;  // [T]

  explicit operator bool() const { return static_cast<bool>(x); }
};

}  // namespace fairway
