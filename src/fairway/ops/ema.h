// Exponential moving average of the weights.
#pragma once

#include <cstdint>

#include "fairway/device/device.h"

namespace fairway {

// e ← decay·e + (1 − decay)·w, over n elements.
void ema(CpuDevice& device, int64_t n, float* e, const float* w, double decay);
void ema(CudaDevice& device, int64_t n, float* e, const float* w, double decay);

}  // namespace fairway
