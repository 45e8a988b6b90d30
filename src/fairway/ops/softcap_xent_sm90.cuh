// The language-model head's product in bf16 on Hopper GPUs, with the softcap and the first half of
// the softmax in its epilogue. Conventions for operands and launches: linear_sm90.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"

namespace fairway::cuda {

constexpr int kSoftcapGroup = 64;  // columns per partial result

// x [rows, in], w [vocab, in] → logits [rows, vocab]: l = cap · tanh(x wᵀ / cap), and for each row
// and group of 64 columns, partials [rows, vocab / 64] = (max, Σ exp(l − max)) of the rounded
// logits.
void softcap_logits(cudaStream_t stream, const bf16* x, const bf16* w, float cap, int64_t rows,
                    int64_t in, int64_t vocab, bf16* logits, float2* partials);

}  // namespace fairway::cuda
