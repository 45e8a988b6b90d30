// How CPU ops share out rows: fixed blocks of rows, independent of the number of threads, and sums
// over rows that add the blocks' partial sums in block order. Internal to ops/*_cpu.cpp.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fairway/device/cpu_device.h"

namespace fairway {

inline constexpr int64_t kRowBlock = 64;

inline int64_t row_blocks(int64_t rows) {
  return (rows + kRowBlock - 1) / kRowBlock;
}

// f(begin, end) for each block of rows, in parallel.
template <class F>
void for_row_blocks(CpuDevice& device, int64_t rows, F&& f) {
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 4)
  for (int64_t b = 0; b < row_blocks(rows); ++b)
    f(b * kRowBlock, std::min(rows, (b + 1) * kRowBlock));
}

// f(begin, end, partial) adds its rows' contributions to the zeroed partial[width]; the partials
// are returned one row per block, to be added up by `add_partials`. Scratch slot 0 of the device.
template <class T, class F>
T* sum_row_blocks(CpuDevice& device, int64_t rows, int64_t width, F&& f) {
  T* partials = reinterpret_cast<T*>(
      device.shared_scratch(0, static_cast<size_t>(row_blocks(rows) * width) * sizeof(T)));
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    T* partial = partials + begin / kRowBlock * width;
    std::fill(partial, partial + width, T{});
    f(begin, end, partial);
  });
  return partials;
}

// out[i] += Σ_blocks partials[block][offset + i], i < n.
template <class T>
void add_partials(const T* partials, int64_t rows, int64_t width, int64_t offset, int64_t n,
                  T* out) {
  for (int64_t b = 0; b < row_blocks(rows); ++b)
    for (int64_t i = 0; i < n; ++i) out[i] += partials[b * width + offset + i];
}

}  // namespace fairway
