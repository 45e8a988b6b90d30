// Adapters in bf16, contiguous along the product's K, and the row tiles of their documents.
#include <algorithm>
#include <numeric>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/base/check.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/adapter_copies.h"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/doc_tiles_cuda.h"

namespace fairway::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kTileRows = 128, kGroup = 2;  // of the product's kernels, and adapter_row_tiles

// Row tiles, which the kernels that pack make on the way: a launch of its own would take longer.
struct TileList {
  const int32_t* doc_rows;
  int docs;
  sm90::RowTile* tiles;
  int count;
  int before;  // blocks that pack, along the grid's dimension at whose end the list's are
};
constexpr int kBlockTiles = kThreads / 32;

// A warp a tile.
__device__ __forceinline__ void make_tiles(const TileList& list, unsigned block) {
  const int index = static_cast<int>(block * kThreads + threadIdx.x) / 32;
  if (index >= list.count) return;
  const DocTile tile = find_doc_tile<kTileRows>(list.doc_rows, list.docs, index);
  const DocTile first = find_doc_tile<kTileRows>(list.doc_rows, list.docs, index / kGroup * kGroup);
  const auto begin = static_cast<int32_t>(tile.begin);
  if (threadIdx.x % 32 == 0)
    list.tiles[index] = {begin, begin + tile.rows,
                         tile.rows > 0    ? tile.doc
                         : first.rows > 0 ? 0
                                          : -1,
                         0};
}

// Matrices [rows, k] of each document, M's from row begin[i] on.
struct Stack {
  const float* from[kMaxLowRankGroup];   // null: nothing is read or written
  const float* scale[kMaxLowRankGroup];  // factors of the rows; null: 1
  int64_t stride[kMaxLowRankGroup];
  int begin[kMaxLowRankGroup + 1];
  int k;
};
static_assert(kMostAdapted <= kMaxLowRankGroup && kMaxLowRankGroup == 4);

// 16 bytes of M a thread. Grid (pieces, documents); behind the pieces, tiles.
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const __grid_constant__ Stack stack, uint4* to,
                const __grid_constant__ TileList list) {
  wait_for_earlier_kernels();
  if (static_cast<int>(blockIdx.x) >= list.before) {
    make_tiles(list, (blockIdx.x - list.before) * gridDim.y + blockIdx.y);
    return;
  }
  const int pieces = stack.k / kPack, width = stack.begin[kMaxLowRankGroup];
  const int piece = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (piece >= width * pieces) return;
  const int place = piece / pieces;
  const int i = (place >= stack.begin[1]) + (place >= stack.begin[2]) + (place >= stack.begin[3]);
  if (!stack.from[i]) return;
  const int row = place - stack.begin[i];
  const float* const from = stack.from[i] + blockIdx.y * stack.stride[i] +
                            (int64_t{row} * stack.k + piece % pieces * kPack);
  const float scale = stack.scale[i] ? stack.scale[i][row] : 1.0f;
  float v[kPack];
  if (reinterpret_cast<uintptr_t>(from) % sizeof(float4) == 0) {
    load<kPack>(from, v);
  } else {
#pragma unroll
    for (int r = 0; r < kPack; ++r) v[r] = from[r];
  }
#pragma unroll
  for (float& x : v) x *= scale;
  to[int64_t{blockIdx.y} * width * pieces + piece] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                                      pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

// Transposes a tile of A's: kTileIn columns of kTileK of the adapters' rows. Grid (tiles of `in`,
// tiles of rows, documents); behind the tiles of rows, those of the list.
constexpr int kTileIn = 64, kTileK = 32;
static_assert(kTileIn * kTileK / kPack == kThreads);
__global__ void __launch_bounds__(kThreads)
    pack_down_kernel(const __grid_constant__ LowRankDown<const float> down, uint4* to,
                     const __grid_constant__ TileList list) {
  wait_for_earlier_kernels();
  __shared__ float tile[kTileK][kTileIn + 1];  // no two rows begin in one bank
  if (static_cast<int>(blockIdx.y) >= list.before) {
    make_tiles(list,
               ((blockIdx.y - list.before) * gridDim.z + blockIdx.z) * gridDim.x + blockIdx.x);
    return;
  }
  const int in = static_cast<int>(down.in), rank = static_cast<int>(down.rank);
  const int width = rank * down.count, t = static_cast<int>(threadIdx.x);
  const int first_k = static_cast<int>(blockIdx.y) * kTileK;
  const int first_in = static_cast<int>(blockIdx.x) * kTileIn;
  for (int i = t; i < kTileK * kTileIn; i += kThreads) {
    const int k = first_k + i / kTileIn, column = first_in + i % kTileIn;
    if (k < width && column < in)
      tile[i / kTileIn][i % kTileIn] =
          down.a[k / rank][blockIdx.z * down.stride + int64_t{k % rank} * in + column];
  }
  __syncthreads();
  const int column = t / (kTileK / kPack), k = t % (kTileK / kPack) * kPack;
  if (first_in + column >= in || first_k + k >= width) return;
  float v[kPack];
#pragma unroll
  for (int r = 0; r < kPack; ++r) v[r] = tile[k + r][column];
  to[(int64_t{blockIdx.z} * in + first_in + column) * (width / kPack) + (first_k + k) / kPack] = {
      pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

// M is a copy, whose rows are m_pitch apart.
AdapterOperands use_copies(const LowRankCopies& copies, const bf16* m, int64_t rows, int64_t k,
                           int64_t m_pitch, int64_t docs, int64_t width) {
  check(copies.row_tiles && copies.stride % (64 * m_pitch) == 0, "adapters: misplaced copies");
  return {.k = k,
          .m = m,
          .m_pitch = m_pitch,
          .docs = docs,
          .width = width,
          .doc_pitch = copies.stride / m_pitch,
          .tiles = reinterpret_cast<const sm90::RowTile*>(copies.row_tiles),
          .row_tiles = num_adapter_row_tiles(rows, docs)};
}

// Room for M and the tiles.
template <class Pairs>
AdapterOperands make_operands(CudaDevice& device, const Pairs& pairs, int64_t rows, int64_t k,
                              int64_t width) {
  AdapterOperands to{.k = k, .m_pitch = k, .docs = pairs.docs, .width = width, .doc_pitch = width};
  to.row_tiles = num_adapter_row_tiles(rows, pairs.docs);
  const auto tile_bytes =
      static_cast<size_t>(ceil_div(to.row_tiles * int64_t{sizeof(sm90::RowTile)}, 256) * 256);
  std::byte* memory = device.workspace(
      Workspace::operands, tile_bytes + static_cast<size_t>(pairs.docs * width * k) * sizeof(bf16));
  to.tiles = reinterpret_cast<const sm90::RowTile*>(memory);
  to.m = reinterpret_cast<const bf16*>(memory + tile_bytes);
  return to;
}

// The matrix that the copies of all of them are parts of; null: there are none.
const bf16* copies_of(const std::array<LowRankUp<const float>, kMostAdapted>& ups,
                      const std::array<int64_t, kMostAdapted>& width) {
  const bf16* m = nullptr;
  int64_t before = 0;
  for (size_t i = 0; i < ups.size(); before += width[i++]) {
    if (!ups[i]) continue;
    if (!ups[i].copies.matrix) return nullptr;
    const bf16* const begin = ups[i].copies.matrix - before * ups[i].rank;
    check(!m || m == begin, "adapters: copies that are not one matrix");
    m = begin;
  }
  return m;
}

uint4* packed(const AdapterOperands& operands) {
  return reinterpret_cast<uint4*>(const_cast<bf16*>(operands.m));
}

// The list of a grid that packs with `before` blocks along one dimension.
TileList list_of(const AdapterOperands& to, const Tensor<const int32_t>& doc_rows, int64_t before) {
  return {doc_rows.data, static_cast<int>(to.docs), const_cast<sm90::RowTile*>(to.tiles),
          static_cast<int>(to.row_tiles), static_cast<int>(before)};
}
// The blocks along that dimension, of which the others have `others`.
unsigned blocks_with_tiles(const TileList& list, int64_t others) {
  return static_cast<unsigned>(list.before + ceil_div(ceil_div(list.count, kBlockTiles), others));
}

void pack(CudaDevice& device, const Stack& stack, const Tensor<const int32_t>& doc_rows,
          const AdapterOperands& to) {
  const TileList list = list_of(to, doc_rows, ceil_div(to.width * to.k / kPack, kThreads));
  const dim3 grid(blocks_with_tiles(list, to.docs), static_cast<unsigned>(to.docs));
  launch_dependent(device.stream(), pack_kernel, grid, kThreads, 0, stack, packed(to), list);
  cuda_check_launch("adapters: packing");
}

}  // namespace

bool adapters_fit(int64_t k, int64_t width, int64_t docs, const bf16* x) {
  constexpr int64_t kMostDocs = 65535;  // a dimension of some grids
  return k > 0 && k % kPack == 0 && width % 64 == 0 && docs > 0 && docs <= kMostDocs &&
         reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

AdapterOperands adapters_up(CudaDevice& device, int64_t rows, Tensor<const bf16> xa,
                            const std::array<LowRankUp<const float>, kMostAdapted>& ups,
                            const std::array<int64_t, kMostAdapted>& width) {
  const auto& any = *std::find_if(ups.begin(), ups.end(), [](const auto& up) { return bool(up); });
  const auto set_x = [&](AdapterOperands& to) {
    to.x_pitch = xa.extent(1);
    for (size_t i = 0; i < ups.size(); ++i)
      if (ups[i]) to.x[i] = xa.data + ups[i].place * any.rank;
  };
  if (const bf16* const m = copies_of(ups, width)) {
    AdapterOperands to = use_copies(any.copies, m, rows, any.rank, any.rank, any.docs,
                                    std::accumulate(width.begin(), width.end(), int64_t{0}));
    set_x(to);
    return to;
  }
  Stack stack{};
  stack.k = static_cast<int>(any.rank);
  for (size_t i = 0; i < ups.size(); ++i) {
    stack.from[i] = ups[i].b;
    stack.scale[i] = ups[i].out_scale;
    stack.stride[i] = ups[i].stride;
    stack.begin[i + 1] = stack.begin[i] + static_cast<int>(width[i]);
  }
  stack.begin[kMaxLowRankGroup] = stack.begin[kMostAdapted];
  AdapterOperands to = make_operands(device, any, rows, any.rank, stack.begin[kMostAdapted]);
  set_x(to);
  pack(device, stack, any.doc_rows, to);
  return to;
}

AdapterMatrices adapters_ups_backward(CudaDevice& device,
                                      std::span<const LowRankUpBackward<bf16>> ups) {
  AdapterMatrices to{};
  if (std::all_of(ups.begin(), ups.end(), [](const auto& one) { return one.up.copies.matrix; })) {
    for (size_t i = 0; i < ups.size(); ++i) {
      to.first[i] = ups[i].up.copies.matrix;
      to.step[i] = ups[i].up.copies.stride;
    }
    return to;
  }
  const auto& any = ups.front().up;
  Stack stack{};
  stack.k = static_cast<int>(any.rank);
  for (size_t i = 0; i < kMaxLowRankGroup; ++i) {
    stack.begin[i + 1] = stack.begin[i];
    if (i >= ups.size()) continue;
    stack.from[i] = ups[i].up.b;
    stack.scale[i] = ups[i].up.out_scale;
    stack.stride[i] = ups[i].up.stride;
    stack.begin[i + 1] += static_cast<int>(ups[i].up.out);
  }
  const int64_t step = any.rank * stack.begin[kMaxLowRankGroup];
  auto* const memory = reinterpret_cast<bf16*>(
      device.workspace(Workspace::operands, static_cast<size_t>(any.docs * step) * sizeof(bf16)));
  for (size_t i = 0; i < ups.size(); ++i) {
    to.first[i] = memory + stack.begin[i] * any.rank;
    to.step[i] = step;
  }
  TileList none{};
  none.before = static_cast<int>(ceil_div(step / kPack, kThreads));
  const dim3 grid(static_cast<unsigned>(none.before), static_cast<unsigned>(any.docs));
  launch_dependent(device.stream(), pack_kernel, grid, kThreads, 0, stack,
                   reinterpret_cast<uint4*>(memory), none);
  cuda_check_launch("adapters: packing");
  return to;
}

AdapterOperands adapters_down(CudaDevice& device, Tensor<const bf16> x,
                              const LowRankDown<const float>& down) {
  const bf16* const copy = down.copies.matrix;
  AdapterOperands to =
      copy ? use_copies(down.copies, copy, x.extent(0), down.in, down.in, down.docs, down.width())
           : make_operands(device, down, x.extent(0), down.in, down.width());
  to.x_pitch = down.in;
  to.x[0] = x.data;
  if (copy) return to;
  Stack stack{};
  stack.k = static_cast<int>(down.in);
  for (int i = 0; i < kMaxLowRankGroup; ++i) {
    const auto at = static_cast<size_t>(i);
    stack.from[at] = down.a[at];
    stack.stride[at] = down.stride;
    stack.begin[at + 1] = static_cast<int>(std::min(i + 1, down.count) * down.rank);
  }
  pack(device, stack, down.doc_rows, to);
  return to;
}

AdapterOperands adapters_down_backward(CudaDevice& device, int64_t rows, Tensor<const bf16> dxa,
                                       const LowRankDown<const float>& down) {
  const bf16* const copy = down.copies.transposed;
  AdapterOperands to = copy ? use_copies(down.copies, copy, rows, down.width(), down.copies.pitch,
                                         down.docs, down.in)
                            : make_operands(device, down, rows, down.width(), down.in);
  to.x_pitch = down.width();
  to.x[0] = dxa.data;
  if (copy) return to;
  const int64_t in_tiles = ceil_div(down.in, kTileIn);
  const TileList list = list_of(to, down.doc_rows, ceil_div(down.width(), kTileK));
  const dim3 grid(static_cast<unsigned>(in_tiles), blocks_with_tiles(list, in_tiles * down.docs),
                  static_cast<unsigned>(down.docs));
  launch_dependent(device.stream(), pack_down_kernel, grid, kThreads, 0, down, packed(to), list);
  cuda_check_launch("adapters: packing, transposed");
  return to;
}

}  // namespace fairway::cuda
