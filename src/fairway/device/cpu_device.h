// The CPU: OpenMP threads over fixed tiles, matrix products through oneDNN.
//
// Work is cut into tiles by shape alone, never by the number of threads, and each tile is computed
// by one thread: results are the same bits whatever the thread count.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/base/arena.h"
#include "fairway/device/device.h"

namespace fairway {

// The type that matrix products read their inputs in; accumulation is always float32. automatic:
// bfloat16 on a GPU, float32 on a CPU. float8: as automatic, but for the MLP's products in
// training and scoring (ops/mlp_e4m3.h).
enum class MatmulPrecision { automatic, float32, bfloat16, float8 };
inline constexpr std::array<std::string_view, 4> names(MatmulPrecision) {
  return {"auto", "float32", "bfloat16", "float8"};
}

// AVX512-BF16 or AMX: without them, bfloat16 products are slower than float32 ones.
bool cpu_has_fast_bf16();

class CpuGraphs;
class MatmulCache;

class CpuDevice {
 public:
  using Buffer = HostBuffer;
  using Graphs = CpuGraphs;

  // `threads` = 0: as many as the machine has cores for this process.
  // Throws Error if bfloat16 is asked for on a machine without AVX512-BF16 or AMX.
  explicit CpuDevice(int threads = 0, MatmulPrecision precision = MatmulPrecision::automatic);
  ~CpuDevice();
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  std::string name() const;  // "CPU, 2 threads"
  int threads() const { return threads_; }
  MatmulPrecision precision() const { return precision_; }

  Buffer allocate(size_t bytes) { return Buffer(bytes); }
  void upload(void* device, const void* host, size_t bytes) { copy(device, host, bytes); }
  void download(void* host, const void* device, size_t bytes) { copy(host, device, bytes); }
  // An empty span may begin at null, which memcpy does not take.
  void copy(void* to, const void* from, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void zero(void* device, size_t bytes) {
    if (bytes > 0) std::memset(device, 0, bytes);
  }
  void synchronize() {}

  // Scratch of the calling OpenMP thread: at least `bytes`, 64-byte aligned, undefined content,
  // valid until that thread's next call with the same `slot`.
  std::byte* thread_scratch(int slot, size_t bytes);
  // The same, shared by all threads; not to be called inside a parallel region.
  std::byte* shared_scratch(int slot, size_t bytes);

  // Seconds and flops spent inside matrix products since construction, summed over threads.
  struct MatmulTotals {
    double seconds = 0, flops = 0;
  };
  MatmulTotals matmul_totals() const;

  // oneDNN primitives of the calling OpenMP thread (cpu_matmul.cpp).
  MatmulCache& matmul_cache();

 private:
  static constexpr int kScratchSlots = 8;
  struct PerThread;
  int threads_;
  MatmulPrecision precision_;
  std::vector<std::unique_ptr<PerThread>> per_thread_;
  std::array<HostBuffer, kScratchSlots> shared_scratch_;
};

}  // namespace fairway
