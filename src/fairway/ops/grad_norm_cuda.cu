#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/grad_norm.h"

namespace fairway {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlock = 16384;  // elements

struct Itself {
  __device__ double operator()(float x) const { return static_cast<double>(x); }
};

// partial[block] = the sum of term(x) over that block.
template <class Term>
__global__ void __launch_bounds__(kThreads) sum_kernel(int64_t n, const float* x, double* partial) {
  __shared__ double scratch[kThreads / 32];
  const int64_t begin = int64_t{blockIdx.x} * kBlock;
  const double mine = thread_sum<kThreads>(min(n - begin, kBlock), x + begin, Term{});
  const double sum = block_sum<kThreads>(mine, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// *total += the sum of partial[0 … n); one block.
__global__ void __launch_bounds__(kThreads)
    total_kernel(int64_t n, const double* partial, double* total) {
  __shared__ double scratch[kThreads / 32];
  double mine = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) mine += partial[i];
  const double sum = block_sum<kThreads>(mine, scratch);
  if (threadIdx.x == 0) *total += sum;
}

template <class Term>
void add(CudaDevice& device, int64_t n, const float* x, double* total) {
  if (n <= 0) return;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  auto* partial = reinterpret_cast<double*>(
      device.workspace(Workspace::operands, static_cast<size_t>(blocks) * sizeof(double)));
  sum_kernel<Term><<<static_cast<unsigned>(blocks), kThreads, 0, device.stream()>>>(n, x, partial);
  cuda_check_launch("sums of blocks");
  total_kernel<<<1, kThreads, 0, device.stream()>>>(blocks, partial, total);
  cuda_check_launch("sum of sums");
}

struct ScaleElement {
  float scale;
  __device__ void operator()(float& x) const { x *= scale; }
};

}  // namespace

void add_sum(CudaDevice& device, int64_t n, const float* x, double* total) {
  add<Itself>(device, n, x, total);
}
void add_squares(CudaDevice& device, int64_t n, const float* x, double* total) {
  add<Square>(device, n, x, total);
}

void clip_grad(CudaDevice& device, int64_t n, float* g, double norm, double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  if (!(factor < 1)) return;
  map_elements(device, "clip_grad", n, ScaleElement{static_cast<float>(factor)}, g);
}

}  // namespace fairway
