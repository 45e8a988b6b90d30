// Products of a tall matrix of rows with a weight, tile by tile. Internal to ops/*_cpu.cpp.
//
// Inputs of products are `In`: T itself, or bf16 when the device's precision says so. The number of
// rows varies from call to call (documents have any length), so ragged tiles are padded with zero
// rows (row_tiles, device/cpu_matmul.h): few shapes exist, and few oneDNN primitives are made.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "fairway/device/cpu_device.h"
#include "fairway/device/cpu_matmul.h"
#include "fairway/ops/cpu_rows.h"

namespace fairway {

// What sums over rows are padded to.
inline constexpr int64_t kPadRows = 16;

// Scratch slots of the device (shared) and of a thread that these functions use.
enum SharedSlot {
  kSlotPartials = 0,
  kSlotVectors = 1,
  kSlotWeightA = 2,
  kSlotWeightB = 3,
  kSlotRowsA = 4,
  kSlotRowsB = 5,
  kSlotHidden = 6
};
enum ThreadSlot { kSlotTileIn = 0, kSlotTileOut = 1, kSlotTileC = 2, kSlotTileD = 3 };

// f(In{}) with the type that products read.
template <class T, class F>
void with_product_type(CpuDevice& device, F&& f) {
  if constexpr (std::is_same_v<T, float>) {
    if (device.precision() == MatmulPrecision::bfloat16) return f(bf16{});
  }
  f(T{});
}

template <class In, class T>
void convert(const T* from, int64_t n, In* to) {
  if constexpr (std::is_same_v<In, bf16>)
    round_to_bf16(from, n, to);
  else
    std::copy(from, from + n, to);
}

// `p` as product inputs: itself, or a rounded copy in shared scratch. Outside parallel regions.
template <class In, class T>
const In* as_inputs(CpuDevice& device, int slot, const T* p, int64_t n) {
  if constexpr (std::is_same_v<In, T>) {
    return p;
  } else {
    In* out =
        reinterpret_cast<In*>(device.shared_scratch(slot, static_cast<size_t>(n) * sizeof(In)));
    constexpr int64_t kChunk = 1 << 15;
#pragma omp parallel for num_threads(device.threads())
    for (int64_t c = 0; c < n; c += kChunk) convert(p + c, std::min(kChunk, n - c), out + c);
    return out;
  }
}

// The same with zero rows appended up to a multiple of kPadRows.
template <class In, class T>
const In* as_padded_inputs(CpuDevice& device, int slot, const T* p, int64_t rows, int64_t width) {
  const int64_t padded = (rows + kPadRows - 1) / kPadRows * kPadRows;
  if (std::is_same_v<In, T> && padded == rows) return reinterpret_cast<const In*>(p);
  In* out = reinterpret_cast<In*>(
      device.shared_scratch(slot, static_cast<size_t>(padded * width) * sizeof(In)));
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    convert(p + begin * width, (end - begin) * width, out + begin * width);
  });
  std::fill(out + rows * width, out + padded * width, In{});
  return out;
}

// One tile of row_tiles().most rows or fewer, by the calling thread: y[rows, n] (+)= x[rows, k]
// B[k, n]. x and y are dense.
template <class In, class T>
void rows_times(CpuDevice& device, int64_t rows, int64_t n, int64_t k, const T* x, MatrixRef<In> b,
                T* y, bool accumulate) {
  const int64_t multiple = row_tiles().multiple;
  const int64_t padded = (rows + multiple - 1) / multiple * multiple;
  const In* in;
  if constexpr (std::is_same_v<In, T>) {
    in = x;
    if (padded != rows) {
      In* copy = reinterpret_cast<In*>(
          device.thread_scratch(kSlotTileIn, static_cast<size_t>(padded * k) * sizeof(In)));
      std::copy(x, x + rows * k, copy);
      std::fill(copy + rows * k, copy + padded * k, In{});
      in = copy;
    }
  } else {
    In* copy = reinterpret_cast<In*>(
        device.thread_scratch(kSlotTileIn, static_cast<size_t>(padded * k) * sizeof(In)));
    convert(x, rows * k, copy);
    std::fill(copy + rows * k, copy + padded * k, In{});
    in = copy;
  }
  if (padded == rows) {
    matmul_tile(device, rows, n, k, mat(in, k), b, y, n, accumulate);
    return;
  }
  T* out = reinterpret_cast<T*>(
      device.thread_scratch(kSlotTileOut, static_cast<size_t>(padded * n) * sizeof(T)));
  if (accumulate) {
    std::copy(y, y + rows * n, out);
    std::fill(out + rows * n, out + padded * n, T{});
  }
  matmul_tile(device, padded, n, k, mat(in, k), b, out, n, accumulate);
  std::copy(out, out + rows * n, y);
}

// f(begin, end) for each tile of rows, in parallel.
template <class F>
void for_row_tiles(CpuDevice& device, int64_t rows, F&& f) {
  const int64_t most = row_tiles().most;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t begin = 0; begin < rows; begin += most) f(begin, std::min(rows, begin + most));
}

// dw[n, k] += dyᵀ x for dy [rows, n], x [rows, k] already product inputs, padded to kPadRows rows.
// Cut into tiles of dw; each tile sums over blocks of rows in order.
template <class In, class T>
void weight_gradient(CpuDevice& device, int64_t rows, int64_t n, int64_t k, const In* dy,
                     const In* x, T* dw) {
  constexpr int64_t kBlock = 2048;
  const int64_t padded = (rows + kPadRows - 1) / kPadRows * kPadRows;
  const int64_t tile_n = n <= 512 ? 128 : 256, tile_k = 512;
  const int64_t tiles_n = (n + tile_n - 1) / tile_n, tiles_k = (k + tile_k - 1) / tile_k;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t tile = 0; tile < tiles_n * tiles_k; ++tile) {
    const int64_t i = tile / tiles_k * tile_n, j = tile % tiles_k * tile_k;
    for (int64_t block = 0; block < padded; block += kBlock)
      matmul_tile(device, std::min(tile_n, n - i), std::min(tile_k, k - j),
                  std::min(kBlock, padded - block), mat_t(dy + block * n + i, n),
                  mat(x + block * k + j, k), dw + i * k + j, k, true);
  }
}

}  // namespace fairway
