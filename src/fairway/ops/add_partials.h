// Sums of partial sums on CUDA, in a fixed order. Internal to ops/*_cuda.
#pragma once

#include <cstdint>

#include "fairway/device/cuda_device.h"

namespace fairway {

// out0[j] += Σ_b partials[b, j] for j < n0, out1[j] += Σ_b partials[b, n0 + j] for j < n1, b <
// count. A null output is left out.
void add_partials(CudaDevice& device, const float* partials, int64_t count, int64_t n0, float* out0,
                  int64_t n1 = 0, float* out1 = nullptr);

}  // namespace fairway
