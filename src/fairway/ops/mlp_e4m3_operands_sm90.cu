// bf16 matrices → e4m3 operands.
#include "fairway/base/e4m3_cuda.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/e4m3_rows_cuda.cuh"
#include "fairway/ops/mlp_e4m3_sm90.cuh"

namespace fairway::cuda {
namespace {

static_assert(kPack == 8);

__global__ __launch_bounds__(kRowThreads) void elements_kernel(const bf16* x,
                                                               const int32_t* exponent,
                                                               int64_t packs, e4m3* to) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= packs) return;
  Pack<bf16, kPack> pack;
  load<kPack>(x + i * kPack, pack);
  store_operand(to + i * kPack, pack, power_of_two(__ldg(exponent)));
}

// A warp a row.
template <int kChunks>
__global__ __launch_bounds__(kRowThreads) void rows_kernel(const bf16* x, int64_t rows, int64_t D,
                                                           e4m3* to, int32_t* exponents) {
  wait_for_earlier_kernels();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) / kWarp;
  if (row >= rows) return;
  if constexpr (kChunks > 0) {
    Pack<bf16, kPack> packs[kChunks];
    for_packs<kPack, kChunks>(D, lane,
                              [&](int c, int64_t j) { load<kPack>(x + row * D + j, packs[c]); });
    store_e4m3_row<kChunks>([&](int c, int64_t) { return packs[c]; }, D, lane, to + row * D,
                            exponents + row);
  } else {
    const auto pack_at = [&](int, int64_t j) {
      Pack<bf16, kPack> pack;
      load<kPack>(x + row * D + j, pack);
      return pack;
    };
    store_e4m3_row<kChunks>(pack_at, D, lane, to + row * D, exponents + row);
  }
}

// A block a tile of a layer: the tile, and through shared memory its transpose.
constexpr int kTile = 64, kTilePacks = kTile / kPack;
__global__ __launch_bounds__(kRowThreads) void weights_kernel(const bf16* w,
                                                              const int32_t* exponents,
                                                              int exponents_stride, int64_t rows,
                                                              int64_t columns, e4m3* operands) {
  constexpr int kPitch = kTile + 4;  // few rows begin in one bank
  __shared__ __align__(16) uint8_t tile[kTile][kPitch];
  const int64_t size = rows * columns, layer = blockIdx.z;
  const int64_t row0 = int64_t{blockIdx.y} * kTile, column0 = int64_t{blockIdx.x} * kTile;
  const float scale = power_of_two(__ldg(exponents + layer * exponents_stride));
  w += layer * size;
  operands += layer * 2 * size;
#pragma unroll
  for (int t = static_cast<int>(threadIdx.x); t < kTile * kTilePacks; t += kRowThreads) {
    const int row = t / kTilePacks, column = t % kTilePacks * kPack;
    const int64_t at = (row0 + row) * columns + column0 + column;
    Pack<bf16, kPack> pack;
    load<kPack>(w + at, pack);
    const uint2 bytes = e4m3_of_bf16(pack.quad[0], scale);
    *reinterpret_cast<uint2*>(operands + at) = bytes;
    auto* to = reinterpret_cast<uint32_t*>(&tile[row][column]);
    to[0] = bytes.x;
    to[1] = bytes.y;
  }
  __syncthreads();
  e4m3* transposed = operands + size;
  constexpr int kRun = 16;  // rows to a thread
  static_assert(kRowThreads == kTile * kTile / kRun);
  const int column = static_cast<int>(threadIdx.x) / (kTile / kRun);
  const int row = static_cast<int>(threadIdx.x) % (kTile / kRun) * kRun;
  uint32_t words[kRun / 4];
#pragma unroll
  for (int i = 0; i < kRun / 4; ++i) {
    words[i] = 0;
#pragma unroll
    for (int b = 0; b < 4; ++b) words[i] |= uint32_t{tile[row + 4 * i + b][column]} << (8 * b);
  }
  *reinterpret_cast<uint4*>(transposed + (column0 + column) * rows + row0 + row) =
      make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace

void mlp_e4m3_operand_n(cudaStream_t stream, const bf16* n, const int32_t* exponents, int64_t T,
                        int64_t D, e4m3* operand) {
  if (T == 0) return;
  const int64_t packs = T * D / kPack;
  launch_dependent(stream, elements_kernel, grid(ceil_div(packs, kRowThreads)), kRowThreads, 0, n,
                   exponents + kE4m3N, packs, operand);
  cuda_check_launch("mlp_e4m3_operand_n");
}

void mlp_e4m3_operand_dm(cudaStream_t stream, const bf16* dm, int64_t T, int64_t D, e4m3* operand,
                         int32_t* dm_exponents) {
  if (T == 0) return;
  with_row_layout(true, D, [&](auto vec, auto chunks) {
    if constexpr (decltype(vec)::value == kPack)
      launch_dependent(stream, rows_kernel<decltype(chunks)::value>,
                       grid(ceil_div(T, kRowThreads / kWarp)), kRowThreads, 0, dm, T, D, operand,
                       dm_exponents);
  });
  cuda_check_launch("mlp_e4m3_operand_dm");
}

void mlp_e4m3_operand_weights(cudaStream_t stream, const bf16* w, const int32_t* exponents,
                              E4m3Exponent which, int64_t layers, int64_t rows, int64_t columns,
                              e4m3* operands) {
  if (layers == 0) return;
  require(rows % kTile == 0 && columns % kTile == 0, "e4m3 operands: widths");
  const dim3 tiles(grid(columns / kTile), grid(rows / kTile), grid(layers));
  weights_kernel<<<tiles, kRowThreads, 0, stream>>>(w, exponents + which, kE4m3Exponents, rows,
                                                    columns, operands);
  cuda_check_launch("mlp_e4m3_operand_weights");
}

}  // namespace fairway::cuda
