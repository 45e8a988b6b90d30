#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_matmul.h"
#include "machine.h"
#include "timer.h"

namespace fairway::bench {

double device_seconds(CudaDevice& device, const std::function<void()>& run, int times) {
  for (int i = 0; i < 2; ++i) run();
  cudaEvent_t before{}, after{};
  cuda_check(cudaEventCreate(&before), "making an event");
  cuda_check(cudaEventCreate(&after), "making an event");
  std::vector<double> seconds;
  double spent = 0;
  const auto enough = [&](int i) {
    return times > 0 ? i == times : i == 30 || (i >= 5 && spent >= 0.3);
  };
  for (int i = 0; !enough(i); ++i) {
    cuda_check(cudaEventRecord(before, device.stream()), "recording an event");
    run();
    cuda_check(cudaEventRecord(after, device.stream()), "recording an event");
    cuda_check(cudaEventSynchronize(after), "waiting for an event");
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, before, after), "reading an event");
    seconds.push_back(1e-3 * milliseconds);
    spent += seconds.back();
  }
  cudaEventDestroy(before);
  cudaEventDestroy(after);
  return median(seconds);
}

double copy_bandwidth(CudaDevice& device) {
  constexpr size_t kBytes = size_t{2} << 30;
  const CudaBuffer from(kBytes), to(kBytes);
  return 2 * static_cast<double>(kBytes) /
         device_seconds(device, [&] { device.copy(to.data(), from.data(), kBytes); });
}

double matmul_rate(CudaDevice& device) {
  constexpr int64_t kSide = 8192;
  constexpr auto kElements = static_cast<size_t>(kSide * kSide);
  const CudaBuffer a(kElements * sizeof(bf16)), b(kElements * sizeof(bf16)),
      c(kElements * sizeof(bf16));
  // Random values: on zeros the GPU draws less power and runs faster than it ever will in earnest.
  std::vector<bf16> values(kElements);
  const Philox rng(1, 2);
  for (size_t i = 0; i < kElements; i += 4) {
    const auto words = rng.block(i);
    for (size_t j = 0; j < 4; ++j)
      values[i + j] = bf16(static_cast<float>(words[j] >> 8) * 0x1p-23f - 1.0f);
  }
  device.upload(a.data(), values.data(), kElements * sizeof(bf16));
  std::reverse(values.begin(), values.end());
  device.upload(b.data(), values.data(), kElements * sizeof(bf16));
  const double seconds = device_seconds(device, [&] {
    cuda_matmul<bf16, bf16>(device, {.m = kSide, .n = kSide, .k = kSide},
                            {reinterpret_cast<const bf16*>(a.data()), kSide},
                            {reinterpret_cast<const bf16*>(b.data()), kSide, true},
                            reinterpret_cast<bf16*>(c.data()), kSide, 1.0f, 0.0f);
  });
  return 2.0 * kSide * kSide * kSide / seconds;
}

double memory_in_use(CudaDevice&) {
  size_t free = 0, total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "reading the memory in use");
  return static_cast<double>(total - free);
}

}  // namespace fairway::bench
