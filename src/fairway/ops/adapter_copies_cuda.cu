#include <algorithm>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/adamw_cuda.cuh"
#include "fairway/ops/adapter_copies.h"
#include "fairway/ops/cuda_rows.cuh"

namespace fairway {

namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 32, kTileColumns = 64;  // of a matrix whose transpose is wanted
constexpr int kTile = kThreads * kPack;           // elements in a row, of the others
static_assert(kTileRows * kTileColumns == kTile);
constexpr int kTable = 192;  // matrices of one launch

struct Part {
  int64_t from, to, transposed;
  const float* scale;
  int rows, columns, pitch;
  int first_tile;
};
// Passed by value: kernel parameters hold 32 KiB.
struct Table {
  Part part[kTable];
  int count;
};

// The matrix that has the tile.
__device__ __forceinline__ const Part& part_of(const Table& table, int tile) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.part[middle].first_tile <= tile)
      low = middle;
    else
      high = middle;
  }
  return table.part[low];
}

// A tile a block, 8 elements a thread. Grid (tiles, documents).
template <bool kStep>
__global__ void __launch_bounds__(kThreads)
    copies_kernel(const __grid_constant__ Table table, const AdapterBuffers b,
                  const AdamWElement step) {
  __shared__ float turned[kTileRows][kTileColumns + 1];  // no two rows begin in one bank
  const Part& m = part_of(table, static_cast<int>(blockIdx.x));
  const int tile = static_cast<int>(blockIdx.x) - m.first_tile, t = static_cast<int>(threadIdx.x);
  const bool turns = m.transposed >= 0;
  int row, column, first_row = 0, first_column = 0;
  if (turns) {
    const int across = (m.columns + kTileColumns - 1) / kTileColumns;
    first_row = tile / across * kTileRows;
    first_column = tile % across * kTileColumns;
    constexpr int kPacks = kTileColumns / kPack;
    row = first_row + t / kPacks;
    column = first_column + t % kPacks * kPack;
  } else {
    const int at = tile * kTile + t * kPack;
    row = at / m.columns;
    column = at % m.columns;
  }
  bf16* const copies = b.copies + blockIdx.y * b.copies_stride;
  if (row < m.rows && column < m.columns) {
    const int64_t at = int64_t{row} * m.columns + column;
    const int64_t from = blockIdx.y * b.stride + m.from + at;
    float w[kPack];
    load<kPack>(b.adapters + from, w);
    if constexpr (kStep) {
      float g[kPack], v[kPack];
      load<kPack>(b.gradients + from, g);
      load<kPack>(b.second + from, v);
#pragma unroll
      for (int r = 0; r < kPack; ++r) step(w[r], g[r], v[r]);
      store<kPack>(b.adapters + from, w);
      store<kPack>(b.second + from, v);
    }
    if (m.scale) {
      const float scale = m.scale[row];
#pragma unroll
      for (float& x : w) x *= scale;
    }
    if (m.to >= 0) store<kPack>(copies + m.to + at, w);
    if (turns) {
#pragma unroll
      for (int r = 0; r < kPack; ++r) turned[row - first_row][column - first_column + r] = w[r];
    }
  }
  if (!turns) return;
  __syncthreads();
  constexpr int kPacks = kTileRows / kPack;
  column = first_column + t / kPacks;
  row = first_row + t % kPacks * kPack;
  if (row >= m.rows || column >= m.columns) return;
  float w[kPack];
#pragma unroll
  for (int r = 0; r < kPack; ++r) w[r] = turned[row - first_row + r][column - first_column];
  store<kPack>(copies + m.transposed + int64_t{column} * m.pitch + row, w);
}

Part part_of(const AdapterMatrix& m, int first_tile) {
  const bool turns = m.transposed >= 0;
  check(m.from % kPack == 0 && m.columns % kPack == 0 && (m.to < 0 || m.to % kPack == 0) &&
            (!turns || (m.transposed | m.rows | m.pitch) % kPack == 0),
        "adapter copies: a matrix that is not laid out in eights");
  return {m.from,
          m.to,
          m.transposed,
          m.scale,
          static_cast<int>(m.rows),
          static_cast<int>(m.columns),
          static_cast<int>(m.pitch),
          first_tile};
}

int64_t tiles_of(const AdapterMatrix& m) {
  return m.transposed >= 0 ? ceil_div(m.rows, kTileRows) * ceil_div(m.columns, kTileColumns)
                           : ceil_div(m.rows * m.columns, kTile);
}

template <bool kStep>
void run(CudaDevice& device, std::span<const AdapterMatrix> matrices, const AdapterBuffers& b,
         const AdamWElement& step) {
  check(b.stride % kPack == 0 && b.copies_stride % kPack == 0 &&
            aligned16(b.adapters, b.copies, b.gradients, b.second),
        "adapter copies: buffers that are not aligned");
  if (b.docs == 0) return;
  Table table{};
  int64_t tiles = 0;
  const auto launch = [&] {
    if (tiles == 0) return;
    const dim3 blocks(grid(tiles), grid(b.docs));
    copies_kernel<kStep><<<blocks, kThreads, 0, device.stream()>>>(table, b, step);
    cuda_check_launch("adapter copies");
    table.count = 0;
    tiles = 0;
  };
  for (const AdapterMatrix& m : matrices) {
    if (!kStep && m.to < 0 && m.transposed < 0) continue;
    table.part[table.count++] = part_of(m, static_cast<int>(tiles));
    tiles += tiles_of(m);
    if (table.count == kTable) launch();
  }
  launch();
}

}  // namespace

template <class T>
bool reads_adapter_copies(const CudaDevice& device) {
  return std::is_same_v<T, bf16> && device.capability() == 90;
}
template bool reads_adapter_copies<float>(const CudaDevice&);
template bool reads_adapter_copies<bf16>(const CudaDevice&);

void copy_adapters(CudaDevice& device, std::span<const AdapterMatrix> matrices,
                   const AdapterBuffers& buffers) {
  run<false>(device, matrices, buffers, {});
}

void adamw_with_copies(CudaDevice& device, std::span<const AdapterMatrix> matrices,
                       const AdapterBuffers& buffers, const AdamW& step) {
  check(step.beta1 == 0, "adamw_with_copies: a first moment");
  run<true>(device, matrices, buffers, {adamw_factors(step)});
}

}  // namespace fairway
