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

template <class Pairs>
std::vector<DocTile> doc_tiles(const Pairs& pairs) {
  std::vector<DocTile> tiles;
  const int32_t first = pairs.doc_rows[0];
  const int64_t most = row_tiles().most;
  for (int64_t d = 0; d < pairs.docs; ++d) {
    const int64_t stop = pairs.doc_rows[d + 1] - first;
    for (int64_t begin = pairs.doc_rows[d] - first; begin < stop; begin += most)
      tiles.push_back({d, begin, std::min(stop, begin + most)});
  }
  return tiles;
}

template <class T>
T* tile_scratch(CpuDevice& device, int slot, int64_t n) {
  return reinterpret_cast<T*>(device.thread_scratch(slot, static_cast<size_t>(n) * sizeof(T)));
}

// Rows of `width` elements that lie `pitch` apart; `scale` [width] is a factor of the columns, null
// for 1.
template <class T>
struct Rows {
  const T* data;
  int64_t width, pitch;
  const T* scale = nullptr;

  Rows from(int64_t row) const { return {data + row * pitch, width, pitch, scale}; }
  bool dense() const { return width == pitch && !scale; }
  void copy_to(int64_t rows, T* to) const {
    for (int64_t r = 0; r < rows; ++r)
      if (scale) {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) to[r * width + j] = scale[j] * data[r * pitch + j];
      } else {
        std::copy_n(data + r * pitch, width, to + r * width);
      }
  }
};

// `rows` dense rows: themselves, or a copy in the thread's scratch.
template <class T>
const T* dense_rows(CpuDevice& device, int slot, int64_t rows, const Rows<T>& x) {
  if (x.dense()) return x.data;
  T* to = tile_scratch<T>(device, slot, rows * x.width);
  x.copy_to(rows, to);
  return to;
}

// Columns [place·R, (place + 1)·R) of xa or dxa.
template <class T>
Rows<std::remove_const_t<T>> columns_of(Tensor<T> xa, int64_t place, int64_t R) {
  return {xa.data + place * R, R, xa.extent(1)};
}
template <class T>
void put_columns(const T* from, int64_t rows, int64_t R, T* to, int64_t pitch) {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * R, R, to + r * pitch);
}

// dw [n, k] = dyᵀ x over one document's rows, in blocks of rows; the ragged end is padded with
// zeros.
template <class T>
void document_gradient(CpuDevice& device, int64_t rows, const Rows<T>& dy, const Rows<T>& x,
                       T* dw) {
  constexpr int64_t kBlock = 512;
  const int64_t n = dy.width, k = x.width;
  std::fill(dw, dw + n * k, T{});
  const auto padded_rows = [&](const Rows<T>& from, int slot, int64_t count, int64_t padded) {
    if (padded == count && from.dense()) return from.data;
    T* copy = tile_scratch<T>(device, slot, padded * from.width);
    from.copy_to(count, copy);
    std::fill(copy + count * from.width, copy + padded * from.width, T{});
    return static_cast<const T*>(copy);
  };
  for (int64_t begin = 0; begin < rows; begin += kBlock) {
    const int64_t block = std::min(kBlock, rows - begin);
    const int64_t padded = (block + kPadRows - 1) / kPadRows * kPadRows;
    const T* a = padded_rows(dy.from(begin), kSlotTileIn, block, padded);
    const T* b = padded_rows(x.from(begin), kSlotTileOut, block, padded);
    matmul_tile(device, n, k, padded, mat_t(a, n), mat(b, k), dw, k, true);
  }
}

}  // namespace

// Adapters stay in float32: their first updates are below bf16's resolution.

template <class T>
void low_rank_down(CpuDevice& device, Tensor<const T> x, const LowRankDown<const T>& down,
                   Tensor<T> xa) {
  const int64_t R = down.rank, in = down.in, width = down.width();
  const auto tiles = doc_tiles(down);
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (const DocTile& tile : tiles) {
    const int64_t rows = tile.end - tile.begin;
    T* product = tile_scratch<T>(device, kSlotTileC, rows * R);
    for (int i = 0; i < down.count; ++i) {
      const T* a = down.a[static_cast<size_t>(i)] + tile.doc * down.stride;
      rows_times<T>(device, rows, R, in, x.data + tile.begin * in, mat_t(a, in), product, false);
      put_columns<T>(product, rows, R, xa.data + tile.begin * width + i * R, width);
    }
  }
}

template <class T>
void low_rank_up(CpuDevice& device, Tensor<const T> xa, const LowRankUp<const T>& up, Tensor<T> y) {
  const int64_t R = up.rank, out = up.out;
  const auto tiles = doc_tiles(up);
  const Rows<T> columns = columns_of(xa, up.place, R);
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (const DocTile& tile : tiles) {
    const int64_t rows = tile.end - tile.begin;
    const T* b = up.b + tile.doc * up.stride;
    const T* mid = dense_rows(device, kSlotTileC, rows, columns.from(tile.begin));
    T* yt = y.data + tile.begin * out;
    if (!up.out_scale) {
      rows_times<T>(device, rows, out, R, mid, mat_t(b, R), yt, true);
      continue;
    }
    T* unscaled = tile_scratch<T>(device, kSlotTileD, rows * out);
    rows_times<T>(device, rows, out, R, mid, mat_t(b, R), unscaled, false);
    for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
      for (int64_t j = 0; j < out; ++j) yt[r * out + j] += up.out_scale[j] * unscaled[r * out + j];
  }
}

template <class T>
void low_rank_up_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> xa,
                          const LowRankUp<const T>& up, Tensor<T> dxa, T* db) {
  const int64_t R = up.rank, out = up.out, width = dxa.extent(1);
  const auto tiles = doc_tiles(up);
  const Rows<T> g{dy.data, out, out, up.out_scale};
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (const DocTile& tile : tiles) {
    const int64_t rows = tile.end - tile.begin;
    T* product = tile_scratch<T>(device, kSlotTileC, rows * R);
    rows_times<T>(device, rows, R, out, dense_rows(device, kSlotTileD, rows, g.from(tile.begin)),
                  mat(up.b + tile.doc * up.stride, R), product, false);
    put_columns<T>(product, rows, R, dxa.data + tile.begin * width + up.place * R, width);
  }
  if (!db) return;
  const Rows<T> columns = columns_of(xa, up.place, R);
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t doc = 0; doc < up.docs; ++doc) {
    const int64_t begin = up.doc_rows[doc] - up.doc_rows[0];
    document_gradient(device, up.doc_rows[doc + 1] - up.doc_rows[doc], g.from(begin),
                      columns.from(begin), db + doc * up.stride);
  }
}

template <class T>
void low_rank_ups_backward(CpuDevice& device, std::span<const LowRankUpBackward<T>> ups,
                           Tensor<const T> xa, Tensor<T> dxa) {
  for (const auto& [up, dy, db] : ups) low_rank_up_backward<T>(device, dy, xa, up, dxa, db);
}

template <class T>
void low_rank_down_backward(CpuDevice& device, Tensor<const T> dxa, Tensor<const T> x,
                            const LowRankDown<const T>& down, Tensor<T> dx,
                            const LowRankDown<T>& da) {
  const int64_t R = down.rank, in = down.in;
  if (dx) {
    const auto tiles = doc_tiles(down);
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
    for (const DocTile& tile : tiles)
      for (int i = 0; i < down.count; ++i) {
        const int64_t rows = tile.end - tile.begin;
        const T* a = down.a[static_cast<size_t>(i)] + tile.doc * down.stride;
        rows_times<T>(device, rows, in, R,
                      dense_rows(device, kSlotTileC, rows, columns_of(dxa, i, R).from(tile.begin)),
                      mat(a, in), dx.data + tile.begin * in, true);
      }
  }
  if (!da) return;
  const Rows<T> inputs{x.data, in, in};
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t task = 0; task < down.docs * down.count; ++task) {
    const int64_t doc = task / down.count, i = task % down.count;
    const int64_t begin = down.doc_rows[doc] - down.doc_rows[0];
    document_gradient(device, down.doc_rows[doc + 1] - down.doc_rows[doc],
                      columns_of(dxa, i, R).from(begin), inputs.from(begin),
                      da.a[static_cast<size_t>(i)] + doc * da.stride);
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void low_rank_down(CpuDevice&, Tensor<const T>, const LowRankDown<const T>&,         \
                              Tensor<T>);                                                       \
  template void low_rank_up(CpuDevice&, Tensor<const T>, const LowRankUp<const T>&, Tensor<T>); \
  template void low_rank_up_backward(CpuDevice&, Tensor<const T>, Tensor<const T>,              \
                                     const LowRankUp<const T>&, Tensor<T>, T*);                 \
  template void low_rank_ups_backward(CpuDevice&, std::span<const LowRankUpBackward<T>>,        \
                                      Tensor<const T>, Tensor<T>);                              \
  template void low_rank_down_backward(CpuDevice&, Tensor<const T>, Tensor<const T>,            \
                                       const LowRankDown<const T>&, Tensor<T>,                  \
                                       const LowRankDown<T>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
