// Copies of weights in the type that products read.
#pragma once

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/device.h"

namespace fairway {

// to[i] = from[i] rounded to nearest, ties to even, over n elements.
void round_to(CudaDevice& device, int64_t n, const float* from, bf16* to);

}  // namespace fairway
