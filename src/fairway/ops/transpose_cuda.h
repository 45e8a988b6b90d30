// Transposed copies of matrices, for products that want both operands contiguous along K.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "fairway/base/bf16.h"
#include "fairway/base/check.h"
#include "fairway/base/tensor.h"
#include "fairway/device/cuda_device.h"

namespace fairway::cuda {

// A matrix [rows, columns] of each of some layers, one behind the other, and where their transposes
// go: [columns, rows], rows `pitch` elements apart and layers columns·pitch.
struct Transpose {
  const bf16* from;
  bf16* to;
  int64_t rows, columns;  // multiples of kTransposeTile
  int64_t pitch;          // even
};
inline constexpr int kTransposeTile = 64;
inline constexpr size_t kMostTransposes = 6;

// All of them at once; at most kMostTransposes.
void transpose(cudaStream_t stream, std::span<const Transpose> matrices, int64_t layers);

// The w[i] [out_i, in] transposed and beside each other, [in, Σ out_i]: `given`, or a null one made
// in Workspace::transposed. Widths are multiples of kTransposeTile.
template <size_t kCount>
const bf16* transposed(CudaDevice& device, const std::array<Tensor<const bf16>, kCount>& w,
                       Tensor<const bf16> given) {
  const int64_t in = w[0].extent(1);
  int64_t all = 0, column = 0;
  for (const auto& one : w) all += one.extent(0);
  if (given) {
    check(given.shape == Shape{in, all}, "a transposed copy of another shape");
    return given.data;
  }
  auto* to = reinterpret_cast<bf16*>(
      device.workspace(Workspace::transposed, static_cast<size_t>(in * all) * sizeof(bf16)));
  std::array<Transpose, kCount> matrices;
  for (size_t i = 0; i < kCount; ++i) {
    matrices[i] = {w[i].data, to + column, w[i].extent(0), in, all};
    column += w[i].extent(0);
  }
  transpose(device.stream(), matrices, 1);
  return to;
}

}  // namespace fairway::cuda
