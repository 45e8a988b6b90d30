#include "fairway/device/cuda_check.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/transpose_cuda.h"

namespace fairway::cuda {
namespace {

constexpr int kTile = 32, kRowsAtOnce = 8;

__global__ void transpose_kernel(const uint16_t* w, int rows, int columns, uint16_t* out,
                                 int64_t stride) {
  wait_for_earlier_kernels();
  __shared__ uint16_t tile[kTile][kTile + 2];  // no two rows begin in one bank
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int row = static_cast<int>(blockIdx.y) * kTile,
            column = static_cast<int>(blockIdx.x) * kTile;
  for (int i = y; i < kTile; i += kRowsAtOnce)
    if (row + i < rows && column + x < columns)
      tile[i][x] = w[static_cast<int64_t>(row + i) * columns + column + x];
  __syncthreads();
  for (int i = y; i < kTile; i += kRowsAtOnce)
    if (column + i < columns && row + x < rows) out[(column + i) * stride + row + x] = tile[x][i];
}

}  // namespace

void transpose(cudaStream_t stream, const bf16* w, int64_t rows, int64_t columns, bf16* out,
               int64_t stride) {
  const auto tiles = [](int64_t n) { return static_cast<unsigned>((n + kTile - 1) / kTile); };
  launch_dependent(stream, transpose_kernel, dim3(tiles(columns), tiles(rows)),
                   dim3(kTile, kRowsAtOnce), 0, reinterpret_cast<const uint16_t*>(w),
                   static_cast<int>(rows), static_cast<int>(columns),
                   reinterpret_cast<uint16_t*>(out), stride);
  cuda_check_launch("transpose");
}

}  // namespace fairway::cuda
