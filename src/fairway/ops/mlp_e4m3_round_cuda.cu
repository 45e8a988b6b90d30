// Exponents of e4m3 operands, and rounding in place of the operands themselves.
#include <climits>

#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/leaky_sq_cuda.cuh"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_e4m3_cuda.h"

namespace fairway {

namespace {

constexpr int64_t kFactsBlock = 16384;  // elements
constexpr int kWarps = kRowThreads / kWarp;
constexpr int kLayersAtOnce = 64;

struct MatrixFacts {
  float largest;
  double squares;
};

// The larger of what lanes know, and the sum: the same in all lanes.
__device__ MatrixFacts warp_facts(MatrixFacts facts) {
  facts.largest = warp_max(facts.largest);
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    facts.squares += __shfl_xor_sync(kAllLanes, facts.squares, offset);
  return facts;
}

// facts[matrix, block] of each block's elements of each of the matrices [n].
template <class T>
__global__ __launch_bounds__(kRowThreads) void facts_kernel(const T* w, int64_t n,
                                                            MatrixFacts* facts) {
  __shared__ MatrixFacts of_warp[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t begin = int64_t{blockIdx.x} * kFactsBlock;
  const int64_t end = begin + kFactsBlock < n ? begin + kFactsBlock : n;
  MatrixFacts mine{0, 0};
  for (int64_t i = begin + thread; i < end; i += kRowThreads) {
    const float v = load_one(w + int64_t{blockIdx.y} * n + i);
    mine.largest = fmaxf(mine.largest, fabsf(v));
    mine.squares += static_cast<double>(v) * static_cast<double>(v);
  }
  mine = warp_facts(mine);
  if (thread % kWarp == 0) of_warp[thread / kWarp] = mine;
  __syncthreads();
  if (thread != 0) return;
  MatrixFacts all = of_warp[0];
  for (int warp = 1; warp < kWarps; ++warp)
    all = {fmaxf(all.largest, of_warp[warp].largest), all.squares + of_warp[warp].squares};
  facts[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = all;
}

struct LayerNorms {
  double ln[kLayersAtOnce];
};

// A warp a layer, from both matrices' facts of `blocks` blocks each.
__global__ __launch_bounds__(kWarp) void exponents_kernel(const MatrixFacts* of_up,
                                                          const MatrixFacts* of_down, int blocks,
                                                          int64_t D, int64_t F, LayerNorms norms,
                                                          int32_t* exponents) {
  const int layer = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x);
  const auto of_matrix = [&](const MatrixFacts* facts) {
    MatrixFacts mine{0, 0};
    for (int b = lane; b < blocks; b += kWarp) {
      const MatrixFacts& one = facts[int64_t{layer} * blocks + b];
      mine = {fmaxf(mine.largest, one.largest), mine.squares + one.squares};
    }
    return warp_facts(mine);
  };
  const MatrixFacts up = of_matrix(of_up), down = of_matrix(of_down);
  if (lane == 0)
    e4m3_exponents(D, F, norms.ln[layer], up.largest, up.squares, down.largest, down.squares,
                   exponents + layer * kE4m3Exponents);
}

// A warp per row.
template <class T, int kVec>
__global__ __launch_bounds__(kRowThreads) void row_exponents_kernel(const T* x, int64_t rows,
                                                                    int64_t width,
                                                                    int32_t* exponents) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  float largest = 0;
  for_packs<kVec, 0>(width, lane, [&](int, int64_t j) {
    float v[kVec];
    load<kVec>(x + row * width + j, v);
#pragma unroll
    for (int i = 0; i < kVec; ++i) largest = fmaxf(largest, fabsf(v[i]));
  });
  largest = warp_max(largest);
  if (lane == 0) exponents[row] = e4m3_exponent(largest);
}

// The least of e [n]. One block.
constexpr int kLeastThreads = 1024;
__global__ __launch_bounds__(kLeastThreads) void least_kernel(const int32_t* e, int64_t n,
                                                              int32_t* least) {
  __shared__ int of_warp[kLeastThreads / kWarp];
  wait_for_earlier_kernels();
  const int thread = static_cast<int>(threadIdx.x);
  int mine = INT_MAX;
  const int64_t fours = n / 4;  // e begins at a multiple of 16 bytes
#pragma unroll 4
  for (int64_t i = thread; i < fours; i += kLeastThreads) {
    const int4 four = reinterpret_cast<const int4*>(e)[i];
    mine = min(mine, min(min(four.x, four.y), min(four.z, four.w)));
  }
  for (int64_t i = 4 * fours + thread; i < n; i += kLeastThreads) mine = min(mine, e[i]);
  mine = __reduce_min_sync(kAllLanes, mine);
  if (thread % kWarp == 0) of_warp[thread / kWarp] = mine;
  __syncthreads();
  if (thread >= kWarp) return;
  mine = __reduce_min_sync(kAllLanes, of_warp[thread]);
  if (thread == 0) *least = mine;
}

// Exponents of rows, from what lies in device memory.
struct SumOfExponents {
  const int32_t *all, *rows;  // either may be null
  __device__ int operator()(int64_t row) const {
    return (all != nullptr ? *all : 0) + (rows != nullptr ? rows[row] : 0);
  }
};
struct ExponentsBesideDz {
  const int32_t *n, *rows, *least;
  __device__ int operator()(int64_t row) const {
    return e4m3_exponent_beside_dz(*n, rows[row], *least);
  }
};

template <class T, int kVec, class Exponents>
__global__ __launch_bounds__(kRowThreads) void round_rows_kernel(const T* x, int64_t rows,
                                                                 int64_t width, Exponents exponents,
                                                                 T* to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int e = exponents(row);
  for_packs<kVec, 0>(width, lane, [&](int, int64_t j) {
    float v[kVec];
    load<kVec>(x + row * width + j, v);
#pragma unroll
    for (int i = 0; i < kVec; ++i) v[i] = as_e4m3(v[i], e);
    store<kVec>(to + row * width + j, v);
  });
}

// A warp per row.
template <class T, int kVec>
__global__ __launch_bounds__(kRowThreads) void round_dz_kernel(const T* z, int64_t rows,
                                                               int64_t width,
                                                               const int32_t* exponents,
                                                               const int32_t* row_exponents,
                                                               T* dz) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int e = row_exponents[row] + exponents[kE4m3Dz], of_z = exponents[kE4m3Z];
  for_packs<kVec, 0>(width, lane, [&](int, int64_t j) {
    const int64_t i = row * width + j;
    float v[kVec], at[kVec];
    load<kVec>(dz + i, v);
    load<kVec>(z + i, at);
#pragma unroll
    for (int k = 0; k < kVec; ++k)
      v[k] = as_e4m3(v[k] * leaky_sq_slope_of(as_e4m3(at[k], of_z)), e);
    store<kVec>(dz + i, v);
  });
}

// f(vec), an integral constant, with the width of accesses that a row allows.
template <class T, class F>
void with_vector_width(int64_t width, const T* a, const T* b, F&& f) {
  if (width % kPack == 0 && aligned16(a, b))
    f(std::integral_constant<int, kPack>{});
  else
    f(std::integral_constant<int, 1>{});
}

template <class T, class Exponents>
void round_rows(CudaDevice& device, Tensor<const T> x, Exponents exponents, T* to) {
  const int64_t rows = x.extent(0), width = x.extent(1);
  if (rows == 0) return;
  with_vector_width<T>(width, x.data, to, [&](auto vec) {
    round_rows_kernel<T, decltype(vec)::value>
        <<<grid(ceil_div(rows, kWarps)), kRowThreads, 0, device.stream()>>>(x.data, rows, width,
                                                                            exponents, to);
  });
  cuda_check_launch("round_rows_to_e4m3");
}

}  // namespace

template <class T>
void mlp_e4m3_exponents(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                        std::span<const double> ln, Tensor<int32_t> exponents) {
  const int64_t L = wup.extent(0), F = wup.extent(1), D = wup.extent(2);
  const int64_t blocks = ceil_div(F * D, kFactsBlock);
  auto* facts = reinterpret_cast<MatrixFacts*>(
      device.workspace(Workspace::e4m3, static_cast<size_t>(2 * L * blocks) * sizeof(MatrixFacts)));
  MatrixFacts* const of_down = facts + L * blocks;
  const dim3 all(grid(blocks), grid(L));
  facts_kernel<T><<<all, kRowThreads, 0, device.stream()>>>(wup.data, F * D, facts);
  cuda_check_launch("mlp_e4m3_exponents");
  facts_kernel<T><<<all, kRowThreads, 0, device.stream()>>>(wdown.data, F * D, of_down);
  cuda_check_launch("mlp_e4m3_exponents");
  for (int64_t first = 0; first < L; first += kLayersAtOnce) {
    const int64_t count = std::min<int64_t>(kLayersAtOnce, L - first);
    LayerNorms norms{};
    for (int64_t i = 0; i < count; ++i) norms.ln[i] = ln[static_cast<size_t>(first + i)];
    exponents_kernel<<<grid(count), kWarp, 0, device.stream()>>>(
        facts + first * blocks, of_down + first * blocks, static_cast<int>(blocks), D, F, norms,
        exponents.slice(first).data);
    cuda_check_launch("mlp_e4m3_exponents");
  }
}

template <class T>
void e4m3_row_exponents(CudaDevice& device, Tensor<const T> x, int32_t* exponents, int32_t* least) {
  const int64_t rows = x.extent(0), width = x.extent(1);
  if (rows == 0) return;
  with_vector_width<T>(width, x.data, x.data, [&](auto vec) {
    row_exponents_kernel<T, decltype(vec)::value>
        <<<grid(ceil_div(rows, kWarps)), kRowThreads, 0, device.stream()>>>(x.data, rows, width,
                                                                            exponents);
  });
  cuda_check_launch("e4m3_row_exponents");
  least_exponent(device.stream(), exponents, rows, least);
}

void least_exponent(cudaStream_t stream, const int32_t* exponents, int64_t n, int32_t* least) {
  launch_dependent(stream, least_kernel, 1, kLeastThreads, 0, exponents, n, least);
  cuda_check_launch("least_exponent");
}

template <class T>
void round_rows_to_e4m3(CudaDevice& device, Tensor<const T> x, const int32_t* exponent,
                        const int32_t* row_exponents, T* to) {
  round_rows<T>(device, x, SumOfExponents{exponent, row_exponents}, to);
}

template <class T>
void round_rows_beside_dz(CudaDevice& device, Tensor<const T> n, const int32_t* exponent,
                          const int32_t* row_exponents, const int32_t* least, T* to) {
  round_rows<T>(device, n, ExponentsBesideDz{exponent, row_exponents, least}, to);
}

template <class T>
void round_dz_to_e4m3(CudaDevice& device, Tensor<const T> z, const int32_t* exponents,
                      const int32_t* row_exponents, Tensor<T> dz) {
  const int64_t rows = dz.extent(0), width = dz.extent(1);
  if (rows == 0) return;
  with_vector_width<T>(width, z.data, dz.data, [&](auto vec) {
    round_dz_kernel<T, decltype(vec)::value>
        <<<grid(ceil_div(rows, kWarps)), kRowThreads, 0, device.stream()>>>(
            z.data, rows, width, exponents, row_exponents, dz.data);
  });
  cuda_check_launch("round_dz_to_e4m3");
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void mlp_e4m3_exponents(CudaDevice&, Tensor<const T>, Tensor<const T>,                  \
                                   std::span<const double>, Tensor<int32_t>);                      \
  template void e4m3_row_exponents(CudaDevice&, Tensor<const T>, int32_t*, int32_t*);              \
  template void round_rows_to_e4m3(CudaDevice&, Tensor<const T>, const int32_t*, const int32_t*,   \
                                   T*);                                                            \
  template void round_rows_beside_dz(CudaDevice&, Tensor<const T>, const int32_t*, const int32_t*, \
                                     const int32_t*, T*);                                          \
  template void round_dz_to_e4m3(CudaDevice&, Tensor<const T>, const int32_t*, const int32_t*,     \
                                 Tensor<T>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
