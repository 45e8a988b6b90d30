// Exponentials as the attention kernels take them, to base 2 on the special function unit.
#pragma once

namespace fairway::cuda {

constexpr float kLog2e = 1.4426950408889634f;

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fairway::cuda
