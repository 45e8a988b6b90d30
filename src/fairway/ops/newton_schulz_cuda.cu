#include <algorithm>

#include "fairway/device/cuda_matmul.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/newton_schulz.h"

namespace fairway {

namespace {

constexpr int kThreads = 256;
constexpr int64_t kNormBlock = 8192;  // elements

// partial[matrix, block] = the sum of squares of that block of the matrix. Grid (blocks, batch).
__global__ void __launch_bounds__(kThreads)
    matrix_squares_kernel(int64_t size, const float* x, double* partial) {
  __shared__ double scratch[kThreads / 32];
  const int64_t begin = int64_t{blockIdx.x} * kNormBlock;
  const double mine = thread_sum<kThreads>(min(size - begin, kNormBlock),
                                           x + int64_t{blockIdx.y} * size + begin, Square{});
  const double sum = block_sum<kThreads>(mine, scratch);
  if (threadIdx.x == 0) partial[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = sum;
}

// out = x / (‖x‖_F + eps), on the grid of the sums, each block adding up its matrix's in the same
// order. `out` may be `x`.
template <class Out>
__global__ void __launch_bounds__(kThreads)
    normalise_kernel(int64_t size, const float* x, const double* partial, double eps, Out* out) {
  __shared__ double scratch[kThreads / 32];
  __shared__ float shared_scale;
  double mine = 0;
  for (int64_t i = threadIdx.x; i < gridDim.x; i += kThreads)
    mine += partial[int64_t{blockIdx.y} * gridDim.x + i];
  const double sum = block_sum<kThreads>(mine, scratch);
  if (threadIdx.x == 0) shared_scale = static_cast<float>(1.0 / (sqrt(sum) + eps));
  __syncthreads();
  const float scale = shared_scale;
  const int64_t begin = int64_t{blockIdx.x} * kNormBlock, n = min(size - begin, kNormBlock);
  const float* from = x + int64_t{blockIdx.y} * size + begin;
  Out* to = out + int64_t{blockIdx.y} * size + begin;
  int64_t tail = 0;
  if (size % 4 == 0 && reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0 &&
      reinterpret_cast<uintptr_t>(out) % (4 * sizeof(Out)) == 0) {
    tail = n;  // blocks begin and end at multiples of four
    for (int64_t i = 4 * int64_t{threadIdx.x}; i < n; i += 4 * kThreads) {
      const float4 v = load_four(from + i);
      store_four(to + i, {v.x * scale, v.y * scale, v.z * scale, v.w * scale});
    }
  }
  for (int64_t i = tail + threadIdx.x; i < n; i += kThreads)
    store_element(to + i, load_element(from + i) * scale);
}

template <class Out>
void normalise(CudaDevice& device, int64_t batch, int64_t size, const float* x, double eps,
               Out* out) {
  const int64_t blocks = (size + kNormBlock - 1) / kNormBlock;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(batch));
  double* partial = reinterpret_cast<double*>(
      device.workspace(Workspace::operands, static_cast<size_t>(batch * blocks) * sizeof(double)));
  matrix_squares_kernel<<<grid, kThreads, 0, device.stream()>>>(size, x, partial);
  cuda_check_launch("newton_schulz: norms");
  normalise_kernel<<<grid, kThreads, 0, device.stream()>>>(size, x, partial, eps, out);
  cuda_check_launch("newton_schulz: normalise");
}

// to = aI + b·gram for `count` numbers of matrices [n, n] in a row, kPack at a time where n allows.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    linear_kernel(int64_t count, int n, const bf16* gram, float a, float b, bf16* to) {
  const int64_t i = kWidth * (int64_t{blockIdx.x} * kThreads + threadIdx.x);
  if (i >= count) return;
  // The diagonal is at multiples of n + 1 within a matrix.
  const int64_t square = int64_t{n} * n;
  const int within = static_cast<int>(i % square);
  const int row = within / n, col = within % n;  // of the first; kWidth divides n
  const auto value = [&](int j, float g) { return b * g + (row == col + j ? a : 0.0f); };
  float v[kWidth];
  load<kWidth>(gram + i, v);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) v[j] = value(j, v[j]);
  store<kWidth>(to + i, v);
}

void linear_terms(CudaDevice& device, int64_t batch, int64_t n, const bf16* gram, float a, float b,
                  bf16* to) {
  const int64_t count = batch * n * n;
  const bool wide = n % kPack == 0 && aligned16(gram, to);
  const int64_t tasks = wide ? count / kPack : count;
  const auto grid = static_cast<unsigned>((tasks + kThreads - 1) / kThreads);
  const int side = static_cast<int>(n);
  if (wide)
    linear_kernel<kPack><<<grid, kThreads, 0, device.stream()>>>(count, side, gram, a, b, to);
  else
    linear_kernel<1><<<grid, kThreads, 0, device.stream()>>>(count, side, gram, a, b, to);
  cuda_check_launch("newton_schulz: linear terms");
}

}  // namespace

// X, A = XXᵀ (or XᵀX) and the polynomial live in bf16 between products; the last product writes
// float. A step is three products: X ← (aI + bA + cA²)X, where cA² is added to aI + bA. Adding aI
// to the polynomial instead of aX to the product saves a pass over X.
void newton_schulz(CudaDevice& device, int64_t batch, int64_t rows, int64_t cols, float* x,
                   const NewtonSchulz& ns, float* scratch) {
  const int64_t n = std::min(rows, cols), size = rows * cols, square_size = n * n;
  if (batch == 0 || size == 0) return;
  if (ns.steps == 0) {
    normalise(device, batch, size, x, ns.eps, x);
    return;
  }
  // Four bf16 buffers, apart by multiples of 256 bytes unless the matrices are tiny: the float
  // scratch has room for twice the last two.
  const int64_t unit = square_size >= 256 ? 128 : 1;
  const auto place = [&](int64_t elements) { return (elements + unit - 1) / unit * unit; };
  bf16* from = reinterpret_cast<bf16*>(scratch);     // [batch, rows, cols]
  bf16* to = from + place(batch * size);             // [batch, rows, cols]
  bf16* gram = to + place(batch * size);             // [batch, n, n]
  bf16* square = gram + place(batch * square_size);  // [batch, n, n]
  const bool wide = rows <= cols;

  normalise(device, batch, size, x, ns.eps, from);
  for (int step = 0; step < ns.steps; ++step) {
    const CudaMatrix<bf16> plain{from, cols, false, size}, transposed{from, cols, true, size};
    const CudaMatrix<bf16> a{gram, n, false, square_size}, p{square, n, false, square_size};
    if (wide)
      cuda_matmul(device, {n, n, cols, batch}, plain, transposed, gram, n, 1.0f, 0.0f, square_size);
    else
      cuda_matmul(device, {n, n, rows, batch}, transposed, plain, gram, n, 1.0f, 0.0f, square_size);
    linear_terms(device, batch, n, gram, static_cast<float>(ns.a), static_cast<float>(ns.b),
                 square);
    cuda_matmul(device, {n, n, n, batch}, a, a, square, n, static_cast<float>(ns.c), 1.0f,
                square_size);
    const auto next = [&](auto* out) {
      if (wide)
        cuda_matmul(device, {n, cols, n, batch}, p, plain, out, cols, 1.0f, 0.0f, size);
      else
        cuda_matmul(device, {rows, n, n, batch}, plain, p, out, cols, 1.0f, 0.0f, size);
    };
    if (step + 1 == ns.steps)
      next(x);
    else
      next(to);
    std::swap(from, to);
  }
}

}  // namespace fairway
