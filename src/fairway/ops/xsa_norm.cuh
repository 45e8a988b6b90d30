// The length of a value vector, as exclusive attention's kernels take it. Internal to ops/; for
// nvcc.
#pragma once

namespace fairway {

// 1/max(‖v‖, 1e-12), and whether the norm was the larger.
struct InverseNorm {
  float value;
  bool unit;  // v̂ has length 1
};
__device__ __forceinline__ InverseNorm inverse_norm(float squares) {
  constexpr float kTiny = 1e-12f;
  if (squares > kTiny * kTiny) return {rsqrtf(squares), true};
  return {1.0f / kTiny, false};
}

}  // namespace fairway
