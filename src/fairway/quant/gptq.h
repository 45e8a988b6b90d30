// GPTQ (Frantar et al., 2022) with a clip of k row standard deviations: SPEC §5.
#pragma once

#include <vector>

#include "fairway/base/tensor.h"
#include "fairway/device/cpu_device.h"
#include "fairway/quant/quantized.h"

namespace fairway {

struct GptqOptions {
  int bits = 6;
  double clip_sigmas = 12.85;
  double damping = 0.01;
  int block = 128;
};

// What gptq() had to do beyond the recipe.
struct GptqNotes {
  int64_t dead_columns = 0;  // inputs that were zero on all of the calibration text
  double damping = 0;        // what was used: the option's, or more where H was too near singular
};

// Quantizes w [rows, cols] against h [cols, cols] = Σ xᵀx over its inputs x (any positive scale).
// The result has the same bits whatever device.threads() is. A Hessian that is not positive
// definite after damping gets ten times the damping until it is. Throws Error on a non-finite
// weight or Hessian.
QuantizedMatrix gptq(CpuDevice& device, Tensor<const float> w, Tensor<const float> h,
                     const GptqOptions& options, GptqNotes* notes = nullptr);

}  // namespace fairway
