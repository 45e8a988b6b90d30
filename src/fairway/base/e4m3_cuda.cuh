// e4m3 in words, as kernels move it. For nvcc.
#pragma once

#include <cstdint>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/base/e4m3.h"

namespace fairway {

// `low` in the lower byte (the lower address); each as to_e4m3 has it.
__device__ __forceinline__ uint32_t pack_e4m3(float low, float high) {
#if __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return to_e4m3(low).bits | uint32_t{to_e4m3(high).bits} << 8;
#endif
}

__device__ __forceinline__ uint2 pack_e4m3_8(const float (&x)[8]) {
  return make_uint2(pack_e4m3(x[0], x[1]) | pack_e4m3(x[2], x[3]) << 16,
                    pack_e4m3(x[4], x[5]) | pack_e4m3(x[6], x[7]) << 16);
}

// 8 elements of bf16 → Q(x·scale).
__device__ __forceinline__ uint2 e4m3_of_bf16(const uint4& pairs, float scale) {
  const auto two = [&](uint32_t pair) {
    const float2 x = unpack_bf16(pair);
    return pack_e4m3(x.x * scale, x.y * scale);
  };
  return make_uint2(two(pairs.x) | two(pairs.y) << 16, two(pairs.z) | two(pairs.w) << 16);
}

}  // namespace fairway
