// Newton–Schulz orthogonalisation, batched over the matrices of a bank.
#pragma once

#include <cstdint>

#include "fairway/device/device.h"

namespace fairway {

struct NewtonSchulz {
  int steps = 5;
  double a = 3.4445, b = -4.775, c = 2.0315;
  double eps = 1e-7;  // added to the Frobenius norm
};

// Floats of scratch that newton_schulz needs for `batch` matrices of [rows, cols].
int64_t newton_schulz_scratch(int64_t batch, int64_t rows, int64_t cols);

// For each matrix X [rows, cols] of x [batch, rows, cols], in place:
//   X ← X / (‖X‖_F + eps), then `steps` times
//   rows ≤ cols:  A = X Xᵀ,  X ← aX + (bA + cA²) X
//   rows > cols:  A = XᵀX,   X ← aX + X (bA + cA²)
// which drives the singular values towards 1. Products run at the device's matmul precision.
// `scratch` must not overlap x; its content on entry does not matter.
void newton_schulz(CpuDevice& device, int64_t batch, int64_t rows, int64_t cols, float* x,
                   const NewtonSchulz& coefficients, float* scratch);
void newton_schulz(CudaDevice& device, int64_t batch, int64_t rows, int64_t cols, float* x,
                   const NewtonSchulz& coefficients, float* scratch);

}  // namespace fairway
