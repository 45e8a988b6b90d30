// The elementwise halves of a Muon step; Newton–Schulz stands between them.
#pragma once

#include <cstdint>

#include "fairway/device/device.h"

namespace fairway {

// Over `rows` rows of `cols` elements (all matrices of a bank below each other):
//   m ← μm + g;  u = g + μm;  each row of u divided by max(its norm, eps).
// Overwrites m and u; u may be g.
void muon_momentum(CpuDevice& device, int64_t rows, int64_t cols, const float* g, float* m,
                   float* u, double mu, double eps);
void muon_momentum(CudaDevice& device, int64_t rows, int64_t cols, const float* g, float* m,
                   float* u, double mu, double eps);

// w ← w·keep − rate·x, over n elements.
void muon_apply(CpuDevice& device, int64_t n, float* w, const float* x, double keep, double rate);
void muon_apply(CudaDevice& device, int64_t n, float* w, const float* x, double keep, double rate);

}  // namespace fairway
