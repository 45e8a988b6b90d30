// One AdamW step over a flat buffer.
#pragma once

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/device.h"

namespace fairway {

struct AdamW {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;  // 1 for the first step: bias correction is 1 − βᵗ
};

// m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;
// w ← w(1 − lr·wd) − lr · (m/(1−β₁ᵗ)) / (sqrt(v/(1−β₂ᵗ)) + eps)
// over n elements. Overwrites w, m, v. With β₁ = 0, m may be null: g takes its place.
void adamw(CpuDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step);
void adamw(CudaDevice& device, int64_t n, float* w, const float* g, float* m, float* v,
           const AdamW& step);
void adamw(CudaDevice& device, int64_t n, float* w, const bf16* g, float* m, float* v,
           const AdamW& step);

}  // namespace fairway
