// Exclusive attention (xsa.h) inside the Hopper attention kernels, on tiles of 64 rows of d = 64
// that lie swizzled in shared memory:
//   y2 = y − (y·v̂) v̂,   dy = dy2 − (dy2·v̂) v̂,   dv = −Σ_heads [(dy2·v̂) y2 + (y·v̂) dy] / ‖v‖.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/ops/xsa_norm.cuh"

namespace fairway::cuda::attention_sm90 {

// The sum over the 2^n lanes that agree in all but their lowest n bits.
template <int kLanes>
__device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  return x;
}

// Makes y2 of a product's result, this thread's part of two rows; y·v̂ of them in y_dot_v.
__device__ __forceinline__ void exclude_values(float (&y)[32], const char* values, int warp,
                                               int lane, float (&y_dot_v)[2]) {
  Fragment v;
  load_fragment(shared_address(values), warp, lane, v);
  float squares[2] = {}, dot[2] = {}, along[2];
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 x = unpack_bf16(v[j / 4][j % 4]);
    squares[j % 2] += x.x * x.x + x.y * x.y;
    dot[j % 2] += y[2 * j] * x.x + y[2 * j + 1] * x.y;
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float inverse = inverse_norm(lanes_sum<4>(squares[h])).value;
    y_dot_v[h] = lanes_sum<4>(dot[h]) * inverse;
    along[h] = y_dot_v[h] * inverse;
  }
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 x = unpack_bf16(v[j / 4][j % 4]);
    y[2 * j] -= along[j % 2] * x.x;
    y[2 * j + 1] -= along[j % 2] * x.y;
  }
}

// --- backward, eight lanes to a row, one 16-byte piece of it each -------------------------------

__device__ __forceinline__ void unpack_piece(const char* at, float (&x)[8]) {
  const uint4 piece = *reinterpret_cast<const uint4*>(at);
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16(words[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ uint4 pack_piece(const float (&x)[8]) {
  return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
          pack_bf16(x[6], x[7])};
}
__device__ __forceinline__ float row_dot(const float (&a)[8], const float (&b)[8]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum += a[i] * b[i];
  return lanes_sum<8>(sum);
}

// One row: dy2 becomes dy in shared memory and is written to `dy_to` (one head every kTile
// elements) and its dv to `dv_to`, if the row exists. Returns delta = dy2·y2 of every head.
template <int kHeads>
__device__ __forceinline__ void exclude_row(const char* values, const char* const (&y2)[kHeads],
                                            char* const (&dy)[kHeads],
                                            const float (&y_dot_v)[kHeads], int row, int piece,
                                            bool exists, __nv_bfloat16* dy_to, __nv_bfloat16* dv_to,
                                            float (&delta)[kHeads]) {
  const uint32_t at = swizzled(row, piece);
  float v[8], dv[8] = {};
  unpack_piece(values + at, v);
  const InverseNorm norm = inverse_norm(row_dot(v, v));
  const float inverse = norm.value;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float y[8], g[8];
    unpack_piece(y2[h] + at, y);
    unpack_piece(dy[h] + at, g);
    delta[h] = row_dot(g, y);
    const float along = row_dot(g, v) * inverse, c = along * inverse;  // along: dy2·v̂
    // Where the norm was clamped, v̂ is linear in v: the projections stay in.
    const float back = norm.unit ? 0.0f : 2.0f * along * y_dot_v[h] * inverse;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      g[i] -= c * v[i];
      dv[i] -= inverse * (along * y[i] + y_dot_v[h] * g[i] + back * v[i]);
    }
    const uint4 rounded = pack_piece(g);
    *reinterpret_cast<uint4*>(dy[h] + at) = rounded;
    if (exists) *reinterpret_cast<uint4*>(dy_to + h * kTile + 8 * piece) = rounded;
  }
  if (exists) *reinterpret_cast<uint4*>(dv_to + 8 * piece) = pack_piece(dv);
}

}  // namespace fairway::cuda::attention_sm90
