#include <algorithm>
#include <vector>

#include "fairway/ops/adapter_copies.h"

namespace fairway {

namespace {

void copy(const AdapterMatrix& m, const float* from, bf16* copies) {
  for (int64_t row = 0; row < m.rows; ++row)
    for (int64_t column = 0; column < m.columns; ++column) {
      const float x = from[row * m.columns + column];
      const bf16 rounded(m.scale ? m.scale[row] * x : x);
      if (m.to >= 0) copies[m.to + row * m.columns + column] = rounded;
      if (m.transposed >= 0) copies[m.transposed + column * m.pitch + row] = rounded;
    }
}

}  // namespace

void copy_adapters(CpuDevice&, std::span<const AdapterMatrix> matrices, const AdapterBuffers& b) {
  for (int64_t doc = 0; doc < b.docs; ++doc)
    for (const AdapterMatrix& m : matrices)
      copy(m, b.adapters + doc * b.stride + m.from, b.copies + doc * b.copies_stride);
}

void adamw_with_copies(CpuDevice& device, std::span<const AdapterMatrix> matrices,
                       const AdapterBuffers& b, const AdamW& step) {
  std::vector<float> gradients;
  for (int64_t doc = 0; doc < b.docs; ++doc)
    for (const AdapterMatrix& m : matrices) {
      const int64_t at = doc * b.stride + m.from, n = m.rows * m.columns;
      gradients.resize(static_cast<size_t>(n));
      std::transform(b.gradients + at, b.gradients + at + n, gradients.begin(),
                     [](bf16 x) { return static_cast<float>(x); });
      adamw(device, n, b.adapters + at, gradients.data(), nullptr, b.second + at, step);
    }
  copy_adapters(device, matrices, b);
}

}  // namespace fairway
