#include "fairway/device/cpu_device.h"

#include <omp.h>

#include <algorithm>

#include "fairway/base/check.h"
#include "fairway/device/cpu_matmul_cache.h"

namespace fairway {

struct CpuDevice::PerThread {
  MatmulCache matmul;
  std::array<HostBuffer, kScratchSlots> scratch;
};

CpuDevice::CpuDevice(int threads, MatmulPrecision precision)
    : threads_(threads > 0 ? threads : std::max(1, omp_get_max_threads())), precision_(precision) {
  if (precision == MatmulPrecision::bfloat16)
    require(cpu_has_fast_bf16(),
            "matmul_precision = bfloat16: this processor has neither AVX512-BF16 nor AMX; "
            "use float32");
  for (int i = 0; i < threads_; ++i) per_thread_.push_back(std::make_unique<PerThread>());
}

CpuDevice::~CpuDevice() = default;

std::string CpuDevice::name() const {
  return fmt::format("CPU, {} thread{}", threads_, threads_ == 1 ? "" : "s");
}

std::byte* CpuDevice::thread_scratch(int slot, size_t bytes) {
  HostBuffer& buffer =
      per_thread_[static_cast<size_t>(omp_get_thread_num())]->scratch[static_cast<size_t>(slot)];
  if (buffer.bytes() < bytes) buffer = HostBuffer(bytes + bytes / 4);
  return buffer.data();
}

std::byte* CpuDevice::shared_scratch(int slot, size_t bytes) {
  HostBuffer& buffer = shared_scratch_[static_cast<size_t>(slot)];
  if (buffer.bytes() < bytes) buffer = HostBuffer(bytes + bytes / 4);
  return buffer.data();
}

MatmulCache& CpuDevice::matmul_cache() {
  return per_thread_[static_cast<size_t>(omp_get_thread_num())]->matmul;
}

CpuDevice::MatmulTotals CpuDevice::matmul_totals() const {
  MatmulTotals sum;
  for (const auto& p : per_thread_) {
    sum.seconds += p->matmul.totals.seconds;
    sum.flops += p->matmul.totals.flops;
  }
  return sum;
}

}  // namespace fairway
