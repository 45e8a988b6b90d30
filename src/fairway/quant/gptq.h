// GPTQ (Frantar et al., 2022) with a clip of k row standard deviations: SPEC §5.
#pragma once

#include <span>
#include <string>
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

// What all matrices that read one input share: the columns in the order they are quantized, and the
// factor that spreads a column's error over later ones.
struct GptqFactor {
  std::vector<int64_t> order;  // [cols]
  std::vector<float> u;        // [cols, cols] upper triangular, in that order
  std::vector<char> dead;      // [cols] inputs that were always zero
  GptqNotes notes;
};

// The factors of several Hessians, each h [cols, cols] = Σ xᵀx over inputs x (any positive scale).
// A Hessian that is not positive definite after damping gets ten times the damping until it is.
// The same bits whatever device.threads() is and whatever else is in the list. Throws Error naming
// the first Hessian (by `names`, of the same length) that is not finite.
std::vector<GptqFactor> gptq_factors(CpuDevice& device,
                                     std::span<const Tensor<const float>> hessians,
                                     std::span<const std::string> names, double damping);

struct GptqJob {
  std::string name;
  Tensor<const float> w;  // [rows, cols]
  const GptqFactor* factor;
  GptqOptions options;
};

// Quantizes the matrices, side by side. The same bits whatever device.threads() is. Throws Error
// naming the first matrix with a non-finite weight.
std::vector<QuantizedMatrix> gptq(CpuDevice& device, std::span<const GptqJob> jobs);

// Both steps for one matrix.
QuantizedMatrix gptq(CpuDevice& device, Tensor<const float> w, Tensor<const float> h,
                     const GptqOptions& options, GptqNotes* notes = nullptr);

}  // namespace fairway
