// The MLP's activation f(z) = max(z, z/2)² and its slope of one element. Internal to ops/*_cuda.cu.
#pragma once

namespace fairway {

// max(z, z/2) is z for z > 0 and z/2 below: no branch.
__device__ __forceinline__ float leaky_sq_of(float z) {
  const float l = fmaxf(z, 0.5f * z);
  return l * l;
}

__device__ __forceinline__ float leaky_sq_slope_of(float z) {
  return fmaxf(2.0f * z, 0.5f * z);
}

}  // namespace fairway
