#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/ema.h"

namespace fairway {

void ema(CpuDevice& device, int64_t n, float* e, const float* w, double decay) {
  const float keep = static_cast<float>(decay), gain = static_cast<float>(1 - decay);
  for_each_block(device, n, [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) e[i] = keep * e[i] + gain * w[i];
  });
}

}  // namespace fairway
