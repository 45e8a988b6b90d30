// The choice of kernels, and the general ones: any element type, rank and width, products in
// float32.
#include <type_traits>

#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_mma_cuda.h"

namespace fairway {

namespace {

constexpr int kTile = 64, kDepth = 16;
constexpr int kSide = kTile / 4;  // a thread owns 4 x 4 elements of a tile
constexpr int kThreads = kSide * kSide;

// Of CudaDevice::workspace.
constexpr int kSlotMid = 2, kSlotDmid = 3;

// sum += A B over `depth`, for a tile of kTile x kTile. a(i, k) and b(k, j) are elements of A and B
// within the tile, zero outside of the matrices; thread (u, v) owns elements
// (u + kSide·i, v + kSide·j), where threadIdx.x = u·kSide + v.
template <class A, class B>
__device__ void product_tile(int depth, const A& a, const B& b, float (&sum)[4][4]) {
  __shared__ float left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int u = threadIdx.x / kSide, v = threadIdx.x % kSide;
  for (int begin = 0; begin < depth; begin += kDepth) {
    for (int p = threadIdx.x; p < kDepth * kTile; p += kThreads) {
      const int k = p / kTile, i = p % kTile;
      left[k][i] = begin + k < depth ? a(i, begin + k) : 0.0f;
      right[k][i] = begin + k < depth ? b(begin + k, i) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      float x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[i] = left[k][u + kSide * i];
        y[i] = right[k][v + kSide * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
}

// The matrix [in, out] of each document: element (i, j) at data[doc·doc_step + i·in_step +
// j·out_step].
struct DocMatrix {
  const float* data;
  int64_t doc_step, in_step, out_step;
  const float *in_scale = nullptr, *out_scale = nullptr;  // factors of its rows or columns; null: 1
};

// y = x M, or y += x M, for the rows of each document. Grid (row tiles, tiles of columns).
template <bool kAdd, class X, class Y>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(const int32_t* doc_rows, int docs, const X* x, int in, DocMatrix m, Y* y, int out) {
  const DocTile tile = find_doc_tile<kTile>(doc_rows, docs, blockIdx.x);
  if (tile.rows == 0) return;
  const int first = kTile * blockIdx.y;
  const X* const rows = x + tile.begin * in;
  const float* const matrix = m.data + tile.doc * m.doc_step;
  float sum[4][4] = {};
  product_tile(
      in,
      [&](int i, int k) { return i < tile.rows ? load_element(rows + int64_t{i} * in + k) : 0.0f; },
      [&](int k, int j) {
        if (first + j >= out) return 0.0f;
        float v = matrix[k * m.in_step + (first + j) * m.out_step];
        if (m.in_scale) v *= m.in_scale[k];
        if (m.out_scale) v *= m.out_scale[first + j];
        return v;
      },
      sum);
  const int u = threadIdx.x / kSide, v = threadIdx.x % kSide;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int row = u + kSide * i, col = first + v + kSide * j;
      if (row >= tile.rows || col >= out) continue;
      Y* to = y + (tile.begin + row) * out + col;
      store_element(to, kAdd ? load_element(to) + sum[i][j] : sum[i][j]);
    }
}

// d[wide, rank] += wideᵀ narrow over each document's rows, element (w, r) at w·wide_step +
// r·rank_step. Grid (tiles of wide, tiles of the rank, documents).
template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const int32_t* doc_rows, const T* wide, int width, const float* narrow,
                    int rank, float* d, int64_t doc_step, int64_t wide_step, int64_t rank_step,
                    const float* wide_scale) {
  const int doc = blockIdx.z;
  const int64_t begin = int64_t{doc_rows[doc]} - doc_rows[0];
  const int rows = doc_rows[doc + 1] - doc_rows[doc];
  if (rows <= 0) return;
  const int first_wide = kTile * blockIdx.x, first_rank = kTile * blockIdx.y;
  float sum[4][4] = {};
  product_tile(
      rows,
      [&](int i, int k) {
        const int w = first_wide + i;
        return w < width ? load_element(wide + (begin + k) * width + w) : 0.0f;
      },
      [&](int k, int j) {
        const int r = first_rank + j;
        return r < rank ? narrow[(begin + k) * rank + r] : 0.0f;
      },
      sum);
  const int u = threadIdx.x / kSide, v = threadIdx.x % kSide;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int w = first_wide + u + kSide * i, r = first_rank + v + kSide * j;
      if (w < width && r < rank)
        d[doc * doc_step + w * wide_step + r * rank_step] +=
            wide_scale ? wide_scale[w] * sum[i][j] : sum[i][j];
    }
}

unsigned tiles(int64_t n) {
  return static_cast<unsigned>((n + kTile - 1) / kTile);
}

template <bool kAdd, class X, class Y>
void rows_times(CudaDevice& device, const LowRankPairs<const float>& p, int64_t rows, const X* x,
                int64_t in, const DocMatrix& m, Y* y, int64_t out) {
  const dim3 grid(most_doc_tiles<kTile>(rows, p.docs), tiles(out));
  rows_kernel<kAdd>
      <<<grid, kThreads, 0, device.stream()>>>(p.doc_rows.data, static_cast<int>(p.docs), x,
                                               static_cast<int>(in), m, y, static_cast<int>(out));
  cuda_check_launch("low_rank: rows");
}

template <class T>
void gradient(CudaDevice& device, const LowRankPairs<const float>& p, const T* wide, int64_t width,
              const float* narrow, float* d, int64_t doc_step, int64_t wide_step, int64_t rank_step,
              const float* wide_scale) {
  const dim3 grid(tiles(width), tiles(p.rank), static_cast<unsigned>(p.docs));
  gradient_kernel<<<grid, kThreads, 0, device.stream()>>>(
      p.doc_rows.data, wide, static_cast<int>(width), narrow, static_cast<int>(p.rank), d, doc_step,
      wide_step, rank_step, wide_scale);
  cuda_check_launch("low_rank: gradient");
}

float* mid_rows(CudaDevice& device, int slot, int64_t rows, int64_t rank) {
  return reinterpret_cast<float*>(
      device.workspace(slot, static_cast<size_t>(rows * rank) * sizeof(float)));
}

// Documents are a dimension of some grids.
void check_docs(int64_t docs) {
  check(docs <= 65535, "low_rank: too many documents");
}

// A and B as [in, out] of the product they stand in.
DocMatrix a_transposed(const LowRankPairs<const float>& p) {
  return {p.a, p.stride, 1, p.in};
}
DocMatrix b_transposed(const LowRankPairs<const float>& p) {
  return {p.b, p.stride, 1, p.rank, nullptr, p.out_scale};
}
DocMatrix a_plain(const LowRankPairs<const float>& p) {
  return {p.a, p.stride, p.in, 1};
}
DocMatrix b_plain(const LowRankPairs<const float>& p) {
  return {p.b, p.stride, p.rank, 1, p.out_scale, nullptr};
}

}  // namespace

template <class T>
void low_rank(CudaDevice& device, Tensor<const T> x, const LowRankPairs<const Accum<T>>& pairs,
              Tensor<T> y) {
  const int64_t rows = x.extent(0);
  if (rows == 0 || pairs.docs == 0 || pairs.rank == 0) return;
  check_docs(pairs.docs);
  if constexpr (std::is_same_v<T, bf16>)
    if (low_rank_fits_mma(pairs, x.data, y.data, nullptr)) {
      low_rank_mma(device, x, pairs, y);
      return;
    }
  float* xa = mid_rows(device, kSlotMid, rows, pairs.rank);
  rows_times<false>(device, pairs, rows, x.data, pairs.in, a_transposed(pairs), xa, pairs.rank);
  rows_times<true>(device, pairs, rows, static_cast<const float*>(xa), pairs.rank,
                   b_transposed(pairs), y.data, pairs.out);
}

template <class T>
void low_rank_backward(CudaDevice& device, Tensor<const T> dy, Tensor<const T> x,
                       const LowRankPairs<const Accum<T>>& pairs, Tensor<T> dx,
                       const LowRankPairs<Accum<T>>& dpairs) {
  const int64_t rows = dy.extent(0);
  if (rows == 0 || pairs.docs == 0 || pairs.rank == 0 || (!dx && !dpairs)) return;
  check_docs(pairs.docs);
  if constexpr (std::is_same_v<T, bf16>)
    if (low_rank_fits_mma(pairs, x.data, dy.data, dx.data)) {
      low_rank_backward_mma(device, dy, x, pairs, dx, dpairs);
      return;
    }
  float* dxa = mid_rows(device, kSlotDmid, rows, pairs.rank);
  rows_times<false>(device, pairs, rows, dy.data, pairs.out, b_plain(pairs), dxa, pairs.rank);
  if (dx)
    rows_times<true>(device, pairs, rows, static_cast<const float*>(dxa), pairs.rank,
                     a_plain(pairs), dx.data, pairs.in);
  if (!dpairs) return;
  float* xa = mid_rows(device, kSlotMid, rows, pairs.rank);
  rows_times<false>(device, pairs, rows, x.data, pairs.in, a_transposed(pairs), xa, pairs.rank);
  gradient(device, pairs, dy.data, pairs.out, xa, dpairs.b, dpairs.stride, pairs.rank, 1,
           pairs.out_scale);
  gradient(device, pairs, x.data, pairs.in, dxa, dpairs.a, dpairs.stride, 1, pairs.in, nullptr);
}

#define FAIRWAY_INSTANTIATE(T)                                                              \
  template void low_rank(CudaDevice&, Tensor<const T>, const LowRankPairs<const Accum<T>>&, \
                         Tensor<T>);                                                        \
  template void low_rank_backward(CudaDevice&, Tensor<const T>, Tensor<const T>,            \
                                  const LowRankPairs<const Accum<T>>&, Tensor<T>,           \
                                  const LowRankPairs<Accum<T>>&);
FAIRWAY_INSTANTIATE(float)
FAIRWAY_INSTANTIATE(bf16)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
