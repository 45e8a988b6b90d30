#include <algorithm>
#include <cmath>

#include "fairway/base/rng.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/eval/lora_init.h"

namespace fairway {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kPerThread = 16;  // elements of A or B, four at a time
constexpr int kTable = 96;          // adapters of one launch

// A pair's place in the document's buffer.
struct Place {
  int64_t a, a_size, b, b_size;
  float bound;
};
// Passed by value: kernel parameters hold 4 KiB.
struct Table {
  Place place[kTable];
};

__device__ void store_four(float* to, int64_t begin, int64_t end, const float (&x)[4]) {
  if (end - begin >= 4 && reinterpret_cast<uintptr_t>(to + begin) % sizeof(float4) == 0)
    *reinterpret_cast<float4*>(to + begin) = {x[0], x[1], x[2], x[3]};
  else
    for (int j = 0; j < 4 && begin + j < end; ++j) to[begin + j] = x[j];
}

// blockIdx.y is the adapter. Elements of A come four to a Philox block, 24 bits each; the counter
// is the place in the document's buffer.
__global__ void __launch_bounds__(kThreads)
    init_kernel(const __grid_constant__ Table table, uint64_t seed, uint64_t document, float* doc) {
  const Place& p = table.place[blockIdx.y];
  const Philox random(seed, document);
  const int64_t first = 4 * (int64_t{blockIdx.x} * kThreads + threadIdx.x);
  const int64_t stride = 4 * int64_t{gridDim.x} * kThreads;
  for (int64_t i = first; i < p.a_size; i += stride) {
    const auto words = random.block(static_cast<uint64_t>(p.a + i));
    float x[4];
    for (int j = 0; j < 4; ++j)
      x[j] = p.bound * (static_cast<float>(words[j] >> 8) * 0x1p-23f - 1.0f);
    store_four(doc + p.a, i, p.a_size, x);
  }
  const float zeros[4] = {};
  for (int64_t i = first; i < p.b_size; i += stride) store_four(doc + p.b, i, p.b_size, zeros);
}

}  // namespace

void init_lora(CudaDevice& device, const LoraLayout& layout, uint64_t seed, uint64_t document,
               float* doc) {
  Table table;
  int count = 0;
  int64_t longest = 0;
  const auto launch = [&] {
    if (longest == 0) return;
    constexpr int64_t kPerBlock = kThreads * kPerThread;
    const dim3 grid(static_cast<unsigned>((longest + kPerBlock - 1) / kPerBlock),
                    static_cast<unsigned>(count));
    init_kernel<<<grid, kThreads, 0, device.stream()>>>(table, seed, document, doc);
    cuda_check_launch("init_lora");
  };
  const int64_t rank = layout.rank();
  layout.for_each([&](const std::string&, int64_t a, int64_t in, int64_t b, int64_t out) {
    table.place[count++] = {a, rank * in, b, rank * out, 1.0f / std::sqrt(static_cast<float>(in))};
    longest = std::max(longest, rank * std::max(in, out));
    if (count == kTable) {
      launch();
      count = 0;
      longest = 0;
    }
  });
  launch();
}

}  // namespace fairway
