// A row of bf16 that a warp holds → its e4m3 operand. Internal to ops/*.cu.
#pragma once

#include "fairway/base/e4m3_cuda.cuh"
#include "fairway/ops/cuda_rows.cuh"

namespace fairway {

__device__ __forceinline__ void store_operand(e4m3* to, const Pack<bf16, kPack>& x, float scale) {
  *reinterpret_cast<uint2*>(to) = e4m3_of_bf16(x.quad[0], scale);
}

// pack(c, j): the row's packs as for_packs<kPack, kChunks> has them; `to` [D] and `exponent`, that
// of the largest magnitude, are the row's.
template <int kChunks, class PackAt>
__device__ __forceinline__ void store_e4m3_row(PackAt&& pack, int64_t D, int lane, e4m3* to,
                                               int32_t* exponent) {
  float largest = 0;
  for_packs<kPack, kChunks>(D, lane, [&](int c, int64_t j) {
    float v[kPack];
    unpack(pack(c, j), v);
#pragma unroll
    for (int i = 0; i < kPack; ++i) largest = fmaxf(largest, fabsf(v[i]));
  });
  const int e = e4m3_exponent(warp_max(largest));
  if (lane == 0) *exponent = e;
  const float scale = power_of_two(e);
  for_packs<kPack, kChunks>(D, lane,
                            [&](int c, int64_t j) { store_operand(to + j, pack(c, j), scale); });
}

}  // namespace fairway
