#include <vector>

#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

namespace {

// A tile of one document's rows.
struct DocTile {
  int64_t doc, begin, end;
};

template <class T>
std::vector<DocTile> doc_tiles(const LowRankPairs<T>& pairs) {
  std::vector<DocTile> tiles;
  const int32_t first = pairs.doc_rows[0];
  for (int64_t d = 0; d < pairs.docs; ++d) {
    const int64_t stop = pairs.doc_rows[d + 1] - first;
    for (int64_t begin = pairs.doc_rows[d] - first; begin < stop; begin += kTileRows)
      tiles.push_back({d, begin, std::min(stop, begin + kTileRows)});
  }
  return tiles;
}

template <class T>
T* tile_scratch(CpuDevice& device, int slot, int64_t n) {
  return reinterpret_cast<T*>(device.thread_scratch(slot, static_cast<size_t>(n) * sizeof(T)));
}

// dw[n, k] += dyᵀ x over one document's rows, in blocks of rows; the ragged end is padded with
// zeros.
template <class T>
void document_gradient(CpuDevice& device, int64_t rows, int64_t n, int64_t k, const T* dy,
                       const T* x, T* dw) {
  constexpr int64_t kBlock = 512;
  for (int64_t begin = 0; begin < rows; begin += kBlock) {
    const int64_t block = std::min(kBlock, rows - begin);
    const int64_t padded = (block + kPadRows - 1) / kPadRows * kPadRows;
    const T *a = dy + begin * n, *b = x + begin * k;
    if (padded != block) {
      T* copy_a = tile_scratch<T>(device, kSlotTileIn, padded * n);
      T* copy_b = tile_scratch<T>(device, kSlotTileOut, padded * k);
      std::copy(a, a + block * n, copy_a);
      std::fill(copy_a + block * n, copy_a + padded * n, T{});
      std::copy(b, b + block * k, copy_b);
      std::fill(copy_b + block * k, copy_b + padded * k, T{});
      a = copy_a;
      b = copy_b;
    }
    matmul_tile(device, n, k, padded, mat_t(a, n), mat(b, k), dw, k, true);
  }
}

}  // namespace

// Adapters stay in float32: their first updates are below bf16's resolution.

template <class T>
void low_rank(CpuDevice& device, Tensor<const T> x, const LowRankPairs<const T>& pairs,
              Tensor<T> y) {
  const int64_t R = pairs.rank, in = pairs.in, out = pairs.out;
  const auto tiles = doc_tiles(pairs);
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (const DocTile& tile : tiles) {
    const int64_t at = tile.doc * pairs.stride, rows = tile.end - tile.begin;
    T* xa = tile_scratch<T>(device, kSlotTileC, rows * R);
    rows_times<T>(device, rows, R, in, x.data + tile.begin * in, mat_t(pairs.a + at, in), xa,
                  false);
    T* yt = y.data + tile.begin * out;
    if (!pairs.out_scale) {
      rows_times<T>(device, rows, out, R, xa, mat_t(pairs.b + at, R), yt, true);
      continue;
    }
    T* unscaled = tile_scratch<T>(device, kSlotTileD, rows * out);
    rows_times<T>(device, rows, out, R, xa, mat_t(pairs.b + at, R), unscaled, false);
    for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
      for (int64_t j = 0; j < out; ++j)
        yt[r * out + j] += pairs.out_scale[j] * unscaled[r * out + j];
  }
}

template <class T>
void low_rank_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> x,
                       const LowRankPairs<const T>& pairs, Tensor<T> dx,
                       const LowRankPairs<T>& dpairs) {
  const int64_t R = pairs.rank, in = pairs.in, out = pairs.out;
  const int64_t total = x.extent(0);
  const auto tiles = doc_tiles(pairs);
  const auto rows_bytes = static_cast<size_t>(total * R) * sizeof(T);
  T* dxa = reinterpret_cast<T*>(device.shared_scratch(kSlotRowsA, rows_bytes));
  T* xa = reinterpret_cast<T*>(device.shared_scratch(kSlotRowsB, rows_bytes));
  const bool with_pairs = static_cast<bool>(dpairs);
  const T* g = dy.data;
  if (pairs.out_scale) {
    T* scaled = reinterpret_cast<T*>(
        device.shared_scratch(kSlotHidden, static_cast<size_t>(total * out) * sizeof(T)));
    for_row_blocks(device, total, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
#pragma omp simd
        for (int64_t j = 0; j < out; ++j)
          scaled[r * out + j] = pairs.out_scale[j] * dy.data[r * out + j];
    });
    g = scaled;
  }
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (const DocTile& tile : tiles) {
    const int64_t at = tile.doc * pairs.stride, rows = tile.end - tile.begin;
    rows_times<T>(device, rows, R, out, g + tile.begin * out, mat(pairs.b + at, R),
                  dxa + tile.begin * R, false);
    if (dx)
      rows_times<T>(device, rows, in, R, dxa + tile.begin * R, mat(pairs.a + at, in),
                    dx.data + tile.begin * in, true);
    if (with_pairs)
      rows_times<T>(device, rows, R, in, x.data + tile.begin * in, mat_t(pairs.a + at, in),
                    xa + tile.begin * R, false);
  }
  if (!with_pairs) return;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t task = 0; task < 2 * pairs.docs; ++task) {
    const int64_t doc = task / 2, at = doc * dpairs.stride;
    const int64_t begin = pairs.doc_rows[doc] - pairs.doc_rows[0];
    const int64_t rows = pairs.doc_rows[doc + 1] - pairs.doc_rows[doc];
    if (task % 2 == 0)
      document_gradient(device, rows, out, R, g + begin * out,
                        static_cast<const T*>(xa + begin * R), dpairs.b + at);
    else
      document_gradient(device, rows, R, in, static_cast<const T*>(dxa + begin * R),
                        x.data + begin * in, dpairs.a + at);
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void low_rank(CpuDevice&, Tensor<const T>, const LowRankPairs<const T>&, Tensor<T>); \
  template void low_rank_backward(CpuDevice&, Tensor<const T>, Tensor<const T>,                 \
                                  const LowRankPairs<const T>&, Tensor<T>,                      \
                                  const LowRankPairs<T>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
