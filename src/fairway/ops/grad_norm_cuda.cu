#include <cmath>

#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/grad_norm.h"

namespace fairway {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kNormBlock = 16384;  // elements
constexpr int kSlotPartial = 1;        // of CudaDevice::workspace

__global__ void __launch_bounds__(kThreads)
    sum_squares_kernel(int64_t n, const float* x, double* partial) {
  __shared__ double scratch[kThreads / 32];
  const int64_t begin = int64_t{blockIdx.x} * kNormBlock;
  const double mine = thread_sum_squares<kThreads>(min(n - begin, kNormBlock), x + begin);
  const double sum = block_sum<kThreads>(mine, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// *total = the sum of partial[0 … n); one block.
__global__ void __launch_bounds__(kThreads)
    total_kernel(int64_t n, const double* partial, double* total) {
  __shared__ double scratch[kThreads / 32];
  double mine = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) mine += partial[i];
  const double sum = block_sum<kThreads>(mine, scratch);
  if (threadIdx.x == 0) *total = sum;
}

struct ScaleElement {
  float scale;
  __device__ void operator()(float& x) const { x *= scale; }
};

}  // namespace

double grad_norm(CudaDevice& device, int64_t n, const float* g) {
  if (n <= 0) return 0;
  const int64_t blocks = (n + kNormBlock - 1) / kNormBlock;
  double* total = reinterpret_cast<double*>(
      device.workspace(kSlotPartial, static_cast<size_t>(blocks + 1) * sizeof(double)));
  double* partial = total + 1;
  sum_squares_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, device.stream()>>>(n, g,
                                                                                      partial);
  cuda_check_launch("grad_norm: sums of blocks");
  total_kernel<<<1, kThreads, 0, device.stream()>>>(blocks, partial, total);
  cuda_check_launch("grad_norm: total");
  double squares = 0;
  device.download(&squares, total, sizeof squares);
  return std::sqrt(squares);
}

void clip_grad(CudaDevice& device, int64_t n, float* g, double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  if (!(factor < 1)) return;
  map_elements(device, "clip_grad", n, ScaleElement{static_cast<float>(factor)}, g);
}

}  // namespace fairway
