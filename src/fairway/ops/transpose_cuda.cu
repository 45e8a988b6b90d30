#include "fairway/device/cuda_check.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/transpose_cuda.h"

namespace fairway::cuda {
namespace {

constexpr int kTile = kTransposeTile, kPairs = kTile / 2, kRowsAtOnce = 8;

struct Transposes {
  Transpose matrix[kMostTransposes];
  int tiles[kMostTransposes];  // of a layer
};

// A block a tile of a layer; elements move in pairs. Grid (tiles of all matrices, layers).
__global__ __launch_bounds__(kPairs* kRowsAtOnce) void transpose_kernel(
    const __grid_constant__ Transposes all) {
  wait_for_earlier_kernels();
  int i = 0, tile = static_cast<int>(blockIdx.x);
  while (tile >= all.tiles[i]) tile -= all.tiles[i++];
  const Transpose& m = all.matrix[i];
  const int across = static_cast<int>(m.columns) / kTile;
  const int row = tile / across * kTile, column = tile % across * kTile;
  const int64_t layer = blockIdx.y;
  const bf16* const from = m.from + (layer * m.rows + row) * m.columns + column;
  bf16* const to = m.to + (layer * m.columns + column) * m.pitch + row;

  __shared__ uint32_t pairs[kTile][kPairs + 1];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
#pragma unroll
  for (int r = y; r < kTile; r += kRowsAtOnce)
    pairs[r][x] = *reinterpret_cast<const uint32_t*>(from + r * m.columns + 2 * x);
  __syncthreads();
#pragma unroll
  for (int c = y; c < kPairs; c += kRowsAtOnce) {
    const uint32_t above = pairs[2 * x][c], below = pairs[2 * x + 1][c];
    bf16* const even = to + 2 * c * m.pitch + 2 * x;
    *reinterpret_cast<uint32_t*>(even) = __byte_perm(above, below, 0x5410);
    *reinterpret_cast<uint32_t*>(even + m.pitch) = __byte_perm(above, below, 0x7632);
  }
}

}  // namespace

void transpose(cudaStream_t stream, std::span<const Transpose> matrices, int64_t layers) {
  check(matrices.size() <= kMostTransposes, "transpose: too many matrices");
  Transposes all{};
  int64_t tiles = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Transpose& m = all.matrix[i] = matrices[i];
    check(m.rows % kTile == 0 && m.columns % kTile == 0 && m.pitch % 2 == 0, "transpose: widths");
    all.tiles[i] = static_cast<int>(m.rows / kTile * (m.columns / kTile));
    tiles += all.tiles[i];
  }
  if (tiles * layers == 0) return;
  launch_dependent(stream, transpose_kernel,
                   dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(layers)),
                   dim3(kPairs, kRowsAtOnce), 0, all);
  cuda_check_launch("transpose");
}

}  // namespace fairway::cuda
