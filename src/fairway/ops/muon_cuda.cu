#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/muon.h"

namespace fairway {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__device__ float warp_scale(double squares, double eps) {
  for (int offset = 16; offset > 0; offset /= 2)
    squares += __shfl_xor_sync(0xFFFFFFFFu, squares, offset);
  return static_cast<float>(1.0 / fmax(sqrt(squares), eps));
}

// m ← μm + g; returns g + μm.
__device__ float update(float g, float& m, float mu, double& squares) {
  m = mu * m + g;
  const float u = g + mu * m;
  squares += static_cast<double>(u) * static_cast<double>(u);
  return u;
}

// One warp a row, which stays in registers: up to 128·kFours columns, a multiple of 4. u may be g.
template <int kFours>
__global__ void __launch_bounds__(kThreads)
    momentum_kernel(int64_t rows, int cols, const float* g, float* m, float* u, float mu,
                    double eps) {
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const int64_t begin = row * cols;
  double squares = 0;
  float4 kept[kFours];
#pragma unroll
  for (int q = 0; q < kFours; ++q) {
    const int col = 4 * (lane + 32 * q);
    if (col >= cols) continue;
    const float4 gv = load_four(g + begin + col);
    float4 mv = load_four(m + begin + col);
    kept[q].x = update(gv.x, mv.x, mu, squares);
    kept[q].y = update(gv.y, mv.y, mu, squares);
    kept[q].z = update(gv.z, mv.z, mu, squares);
    kept[q].w = update(gv.w, mv.w, mu, squares);
    store_four(m + begin + col, mv);
  }
  const float scale = warp_scale(squares, eps);
#pragma unroll
  for (int q = 0; q < kFours; ++q) {
    const int col = 4 * (lane + 32 * q);
    if (col >= cols) continue;
    const float4 v = kept[q];
    store_four(u + begin + col, {v.x * scale, v.y * scale, v.z * scale, v.w * scale});
  }
}

// Rows of any length: u is written, then read again by the thread that wrote it.
__global__ void __launch_bounds__(kThreads)
    momentum_any_kernel(int64_t rows, int64_t cols, const float* g, float* m, float* u, float mu,
                        double eps) {
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const int64_t begin = row * cols;
  double squares = 0;
  for (int64_t col = lane; col < cols; col += 32)
    u[begin + col] = update(g[begin + col], m[begin + col], mu, squares);
  const float scale = warp_scale(squares, eps);
  for (int64_t col = lane; col < cols; col += 32) u[begin + col] *= scale;
}

struct ApplyElement {
  float keep, rate;
  __device__ void operator()(float& w, float x) const { w = w * keep - rate * x; }
};

}  // namespace

void muon_momentum(CudaDevice& device, int64_t rows, int64_t cols, const float* g, float* m,
                   float* u, double mu, double eps) {
  if (rows <= 0 || cols <= 0) return;
  const auto grid = static_cast<unsigned>((rows + kWarps - 1) / kWarps);
  const auto weight = static_cast<float>(mu);
  const bool fours = cols % 4 == 0 && four_aligned(g) && four_aligned(m) && four_aligned(u);
  const auto columns = static_cast<int>(cols);
  if (fours && cols <= 512)
    momentum_kernel<4><<<grid, kThreads, 0, device.stream()>>>(rows, columns, g, m, u, weight, eps);
  else if (fours && cols <= 2048)
    momentum_kernel<16>
        <<<grid, kThreads, 0, device.stream()>>>(rows, columns, g, m, u, weight, eps);
  else
    momentum_any_kernel<<<grid, kThreads, 0, device.stream()>>>(rows, cols, g, m, u, weight, eps);
  cuda_check_launch("muon_momentum");
}

void muon_apply(CudaDevice& device, int64_t n, float* w, const float* x, double keep, double rate) {
  map_elements(device, "muon_apply", n,
               ApplyElement{static_cast<float>(keep), static_cast<float>(rate)}, w, x);
}

}  // namespace fairway
