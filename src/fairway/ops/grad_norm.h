// Sums of a whole vector that stay on the device (the loss, the squares of the gradient), and
// clipping a gradient to a norm.
#pragma once

#include <cstdint>

#include "fairway/device/device.h"

namespace fairway {

// *total += Σ x, *total += Σ x² over n elements; `total` is device memory. Summed in double, in an
// order that does not depend on the number of threads.
void add_sum(CpuDevice& device, int64_t n, const float* x, double* total);
void add_sum(CudaDevice& device, int64_t n, const float* x, double* total);
void add_squares(CpuDevice& device, int64_t n, const float* x, double* total);
void add_squares(CudaDevice& device, int64_t n, const float* x, double* total);

// g ← g · max_norm/(norm + 1e-6) where that factor is below 1. `norm` is the gradient's norm.
void clip_grad(CpuDevice& device, int64_t n, float* g, double norm, double max_norm);
void clip_grad(CudaDevice& device, int64_t n, float* g, double norm, double max_norm);

}  // namespace fairway
