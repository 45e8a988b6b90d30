// Transposed copies of weights, for products that want both operands contiguous along K.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/device/cuda_device.h"

namespace fairway::cuda {

// w [rows, columns] → out [columns, rows], rows of out `stride` elements apart.
void transpose(cudaStream_t stream, const bf16* w, int64_t rows, int64_t columns, bf16* out,
               int64_t stride);

// The w[i] [out_i, in] transposed and beside each other, [in, Σ out_i], in Workspace::transposed.
template <size_t kCount>
const bf16* transposed(CudaDevice& device, const std::array<Tensor<const bf16>, kCount>& w) {
  const int64_t in = w[0].extent(1);
  int64_t all = 0, column = 0;
  for (const auto& one : w) all += one.extent(0);
  auto* to = reinterpret_cast<bf16*>(
      device.workspace(Workspace::transposed, static_cast<size_t>(in * all) * sizeof(bf16)));
  for (const auto& one : w) {
    transpose(device.stream(), one.data, one.extent(0), in, to + column, all);
    column += one.extent(0);
  }
  return to;
}

}  // namespace fairway::cuda
