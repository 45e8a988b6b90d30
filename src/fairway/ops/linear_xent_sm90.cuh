// The head's logits in bf16 on Hopper GPUs, with the softcap and what the loss needs of it in the
// product's epilogue. Conventions for operands and launches: linear_sm90.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

struct XentLogits {
  const bf16 *x, *w;  // [rows, width], [vocab, width]
  int64_t rows, width, vocab;
  double cap;
  bf16* g;      // [rows, vocab]; null: not wanted
  float* sums;  // [rows, xent_tiles(vocab)]
};

// Shapes that xent_logits has tiles for, and caps c whose e^±c leave sums and gradients far from
// the ends of float's range.
bool xent_logits_fits(int64_t width, int64_t vocab, double cap);
int64_t xent_tiles(int64_t vocab);

// z = x wᵀ, l = c·tanh(z/c), neither stored: Σ e^l over each tile of columns, and g = e^l·(1 −
// tanh²(z/c))/4.
void xent_logits(cudaStream_t stream, const XentLogits& op);

}  // namespace fairway::cuda
