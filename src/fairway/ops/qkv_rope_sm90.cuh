// q, k and v in one bf16 product on Hopper GPUs, with QK norm, rotary embedding and gain in its
// epilogue. Conventions for operands and launches are those of linear_sm90.cuh.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/ops/adapter_operands_sm90.h"

namespace fairway::cuda {

// Heads of 64, of which the first 16 or 32 columns rotate (`half` 8 or 16), and an input width that
// is a multiple of 64.
bool qkv_rope_fits(int64_t width, int64_t head_dim, int64_t half);
// With adapters, whole tiles of q's, k's and v's columns: numbers of heads that are multiples of 4.
bool qkv_rope_adapted_fits(int64_t heads, int64_t kv_heads);

// See ops/qkv_rope.h. heads or kv_heads may be 0.
struct QkvRope {
  const bf16 *n, *wq, *wk, *wv;
  const float *q_gain, *cosine, *sine;
  float eps;
  int64_t rows, width, heads, kv_heads, half;
  bf16 *q_rot, *k_rot, *v;
  float *rstd_q, *rstd_k;
};
// Null `adapters`: none; else of q, k and v, in this order, each of which may be missing.
void qkv_rope(cudaStream_t stream, const QkvRope& op, const AdapterOperands* adapters = nullptr);

}  // namespace fairway::cuda
