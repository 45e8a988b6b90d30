#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/ema.h"

namespace fairway {

namespace {

void ema_block(int64_t n, float* e, const float* w, float keep, float gain) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) e[i] = keep * e[i] + gain * w[i];
}

}  // namespace

void ema(CpuDevice& device, int64_t n, float* e, const float* w, double decay) {
  for_each_block(device, n, [&](int64_t begin, int64_t size) {
    ema_block(size, e + begin, w + begin, static_cast<float>(decay), static_cast<float>(1 - decay));
  });
}

}  // namespace fairway
