// Pairs of bf16 in a 32-bit word, as kernels move them. For nvcc.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace fairway {

// `low` in the lower half (the lower address), rounded to nearest, ties to even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
// 8 neighbouring elements.
__device__ __forceinline__ uint4 pack_bf16_8(const float (&v)[8]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                    pack_bf16(v[6], v[7]));
}
// {low, high}.
__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
}

}  // namespace fairway
