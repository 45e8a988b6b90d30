// Low-rank products on the ordinary arithmetic units: any element type, rank and width, products in
// float32.
#pragma once

#include <cstdint>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/elementwise_cuda.h"

namespace fairway::cuda::low_rank_simt {

constexpr int kTile = 64, kDepth = 16;
constexpr int kSide = kTile / 4;  // a thread owns 4 x 4 elements of a tile
constexpr int kThreads = kSide * kSide;

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

// y = x M, or y += x M, for the rows of each document; rows of x and y lie a pitch apart. Grid (row
// tiles, tiles of columns).
template <bool kAdd, class X, class Y>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(const int32_t* doc_rows, int docs, const X* x, int in, int64_t x_pitch, DocMatrix m,
                Y* y, int out, int64_t y_pitch) {
  const DocTile tile = find_doc_tile<kTile>(doc_rows, docs, blockIdx.x);
  if (tile.rows == 0) return;
  const int first = kTile * blockIdx.y;
  const X* const rows = x + tile.begin * x_pitch;
  const float* const matrix = m.data + tile.doc * m.doc_step;
  float sum[4][4] = {};
  product_tile(
      in, [&](int i, int k) { return i < tile.rows ? load_element(rows + i * x_pitch + k) : 0.0f; },
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
      Y* to = y + (tile.begin + row) * y_pitch + col;
      store_element(to, kAdd ? load_element(to) + sum[i][j] : sum[i][j]);
    }
}

// d[wide, rank] = wideᵀ narrow over each document's rows, element (w, r) at w·wide_step +
// r·rank_step. Grid (tiles of wide, tiles of the rank, documents).
template <class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(const int32_t* doc_rows, const T* wide, int width, const T* narrow,
                    int64_t narrow_pitch, int rank, T* d, int64_t doc_step, int64_t wide_step,
                    int64_t rank_step, const float* wide_scale) {
  const int doc = blockIdx.z;
  const int64_t begin = int64_t{doc_rows[doc]} - doc_rows[0];
  const int rows = doc_rows[doc + 1] - doc_rows[doc];
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
        return r < rank ? load_element(narrow + (begin + k) * narrow_pitch + r) : 0.0f;
      },
      sum);
  const int u = threadIdx.x / kSide, v = threadIdx.x % kSide;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int w = first_wide + u + kSide * i, r = first_rank + v + kSide * j;
      if (w < width && r < rank)
        store_element(d + (doc * doc_step + w * wide_step + r * rank_step),
                      wide_scale ? wide_scale[w] * sum[i][j] : sum[i][j]);
    }
}

inline unsigned tiles(int64_t n) {
  return static_cast<unsigned>((n + kTile - 1) / kTile);
}

template <bool kAdd, class Pairs, class T>
void rows_times(CudaDevice& device, const Pairs& p, int64_t rows, const T* x, int64_t in,
                int64_t x_pitch, const DocMatrix& m, T* y, int64_t out, int64_t y_pitch) {
  const dim3 grid(most_doc_tiles<kTile>(rows, p.docs), tiles(out));
  rows_kernel<kAdd><<<grid, kThreads, 0, device.stream()>>>(
      p.doc_rows.data, static_cast<int>(p.docs), x, static_cast<int>(in), x_pitch, m, y,
      static_cast<int>(out), y_pitch);
  cuda_check_launch("low_rank: rows");
}

template <class Pairs, class T>
void gradient(CudaDevice& device, const Pairs& p, const T* wide, int64_t width, const T* narrow,
              int64_t narrow_pitch, T* d, int64_t doc_step, int64_t wide_step, int64_t rank_step,
              const float* wide_scale) {
  const dim3 grid(tiles(width), tiles(p.rank), static_cast<unsigned>(p.docs));
  gradient_kernel<<<grid, kThreads, 0, device.stream()>>>(
      p.doc_rows.data, wide, static_cast<int>(width), narrow, narrow_pitch,
      static_cast<int>(p.rank), d, doc_step, wide_step, rank_step, wide_scale);
  cuda_check_launch("low_rank: gradient");
}

}  // namespace fairway::cuda::low_rank_simt
