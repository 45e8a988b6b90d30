// The head's softcap and partial softmax sums as an epilogue of a matrix product.
#pragma once

#include "fairway/ops/softcap_xent_sm90.cuh"
#include "fairway/sm90/epilogues.cuh"

namespace fairway::cuda {

using sm90::GemmTileAt;

__device__ __forceinline__ float fast_tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Over the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

class SoftcapEpilogue {
 public:
  struct Params {
    float cap, inverse_cap;
    float2* partials;
    int rows, columns;
  };
  static constexpr bool kInput = false;

  __device__ __forceinline__ SoftcapEpilogue(const Params& params, const GemmTileAt& at)
      : params_(params), writes_(at.lane % 4 == 0) {}

  __device__ __forceinline__ void chunk(int, int row, int column, float (&v)[32],
                                        const uint32_t (&)[16]) {
#pragma unroll
    for (int i = 0; i < 32; i += 2) {
      const float2 rounded = sm90::unpack_bf16(sm90::pack_bf16(softcap(v[i]), softcap(v[i + 1])));
      v[i] = rounded.x;
      v[i + 1] = rounded.y;
    }
    constexpr float kLog2E = 1.4426950408889634f;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = v[2 * h];
#pragma unroll
      for (int i = 0; i < 32; ++i)
        if (i / 2 % 2 == h) most = fmaxf(most, v[i]);
      most = row_max(most);
      const float shift = most * kLog2E;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 32; ++i)
        if (i / 2 % 2 == h) sum += exp2f_fast(fmaf(v[i], kLog2E, -shift));
      sum = row_sum(sum);
      const int at = row + 8 * h;
      if (writes_ && at < params_.rows && column < params_.columns)
        params_.partials[static_cast<int64_t>(at) * (params_.columns / kSoftcapGroup) +
                         column / kSoftcapGroup] = {most, sum};
    }
  }

  __device__ __forceinline__ void finish() {}

 private:
  __device__ __forceinline__ float softcap(float z) const {
    return params_.cap * fast_tanh(z * params_.inverse_cap);
  }
  static __device__ __forceinline__ float exp2f_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

  const Params& params_;
  bool writes_;
};

}  // namespace fairway::cuda
