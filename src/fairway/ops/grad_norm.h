// The global norm of a gradient, and clipping to it.
#pragma once

#include <cstdint>

#include "fairway/device/device.h"

namespace fairway {

// ‖g‖₂ over n elements. Summed in double over blocks of fixed size, in order.
double grad_norm(CpuDevice& device, int64_t n, const float* g);
double grad_norm(CudaDevice& device, int64_t n, const float* g);

// g ← g · max_norm/(norm + 1e-6) where that factor is below 1. `norm` is the gradient's norm.
void clip_grad(CpuDevice& device, int64_t n, float* g, double norm, double max_norm);
void clip_grad(CudaDevice& device, int64_t n, float* g, double norm, double max_norm);

}  // namespace fairway
