// Exclusive attention (xsa.h) inside the Hopper forward kernel, on tiles of 64 rows of d = 64 that
// lie swizzled in shared memory: y2 = y − (y·v̂) v̂.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/ops/xsa_norm.cuh"

namespace fairway::cuda::attention_sm90 {

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

}  // namespace fairway::cuda::attention_sm90
