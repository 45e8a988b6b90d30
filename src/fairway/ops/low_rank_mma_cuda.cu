// A document's matrix is packed to bf16 first, in the order in which the lanes of a warp read it as
// the right operand of mma m16n8k16: a piece of it is then contiguous, copied to shared memory as
// it is, and a warp reads consecutive bytes.
//
// Four kernels do the rest:
//   product: y = x M or y += x M, for a sum over many columns of x. xa = x Aᵀ, and dx += dxa A over
//     the ranks of several adapters.
//   spread: y += mid M, where mid's few columns stay in registers. y += xa Bᵀ, and dx += dxa A of
//     one adapter.
//   gradient: dA = dxaᵀ x over a document's rows, in order.
//   ups_backward: both products with dy, dxa = dy B as `product` and dB = dyᵀ xa as `gradient` does
//     them, side by side for several adapters.
#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <type_traits>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/low_rank_mma_cuda.h"
#include "fairway/ops/mma_cuda.h"

namespace fairway {

namespace {

constexpr int64_t kMaxRank = 256;  // that `spread` holds in registers
constexpr int kSlab = 32;          // depth of a product's step: 16 bytes of each row a lane

// Of CudaDevice::workspace.
constexpr int kSlotPacked = 1, kSlotPartial = 2;

int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

// f(the smallest kernel rank that holds `rank`), as a compile-time constant.
template <class F>
void with_kernel_rank(int64_t rank, F&& f) {
  if (rank <= 32)
    f(std::integral_constant<int, 32>{});
  else if (rank <= 64)
    f(std::integral_constant<int, 64>{});
  else if (rank <= 96)
    f(std::integral_constant<int, 96>{});
  else if (rank <= 128)
    f(std::integral_constant<int, 128>{});
  else
    f(std::integral_constant<int, static_cast<int>(kMaxRank)>{});
}

// Shared memory beyond 48 KiB has to be asked for.
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  if (bytes > 48 << 10)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "low_rank: asking for shared memory");
}

// ---------------------------------------------------------------------------------------------
// Packing

// A matrix M [k, n] of each document: element (i, j) at from[doc·doc_step + i·k_step + j·n_step].
// Several adapters' matrices follow each other along one of the two, `k_group` or `n_group` apart.
struct Matrix {
  std::array<const float*, kMaxLowRankGroup> from{};
  int64_t doc_step = 0, k_step = 0, n_step = 0;
  int k = 0, n = 0;
  int k_group = std::numeric_limits<int>::max(), n_group = std::numeric_limits<int>::max();
  const float *k_scale = nullptr, *n_scale = nullptr;  // factors of M's rows or columns; null: 1
};

// Packed, [tiles of n][slabs of k][tile_n][4 lanes][8 elements] of each document. Lane t of a group
// of four reads k = 8t … 8t+7 of a slab, of x and of M: the sums run over the k of an instruction
// in another order, both operands alike. n is permuted within each 32 so that a lane's results are
// eight consecutive columns of y.
struct Packed {
  const uint4* data = nullptr;
  int64_t doc_step = 0;  // in 16-byte chunks
  int tile_n = 0, tiles = 0, slabs = 0;
};

constexpr int kPackThreads = 256;

// Grid (chunks, documents). What lies outside M is zero.
__global__ void __launch_bounds__(kPackThreads)
    pack_kernel(const __grid_constant__ Matrix m, uint4* to, int64_t chunks, int tile_n,
                int slabs) {
  const int64_t chunk = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  if (chunk >= chunks) return;
  const int t = chunk % 4, q = chunk / 4 % tile_n;
  const int slab = static_cast<int>(chunk / 4 / tile_n) % slabs;
  const int tile = static_cast<int>(chunk / 4 / tile_n) / slabs;
  const int n = tile * tile_n + q / 32 * 32 + q % 8 / 2 * 8 + q % 32 / 8 * 2 + q % 2;
  const int k = kSlab * slab + 8 * t;
  float v[8] = {};
  if (n < m.n && k < m.k) {  // m.k and k_group are multiples of 8
    const float* const from = m.from[n / m.n_group + k / m.k_group] + blockIdx.y * m.doc_step +
                              n % m.n_group * m.n_step + k % m.k_group * m.k_step;
    if (m.k_step == 1 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      const float4 low = load_four(from), high = load_four(from + 4);
      v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
      v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
#pragma unroll
      for (int r = 0; r < 8; ++r) v[r] = from[r * m.k_step];
    }
    const float column = m.n_scale ? m.n_scale[n] : 1.0f;
#pragma unroll
    for (int r = 0; r < 8; ++r) v[r] *= m.k_scale ? m.k_scale[k + r] * column : column;
  }
  to[blockIdx.y * chunks + chunk] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                     pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

// To `to`, [docs · tiles · slabs · tile_n · 4].
Packed pack_to(CudaDevice& device, int64_t docs, const Matrix& m, int tile_n, int64_t tiles,
               int64_t slabs, uint4* to) {
  const int64_t chunks = tiles * slabs * tile_n * 4;
  const dim3 grid(static_cast<unsigned>(ceil_div(chunks, kPackThreads)),
                  static_cast<unsigned>(docs));
  pack_kernel<<<grid, kPackThreads, 0, device.stream()>>>(m, to, chunks, tile_n,
                                                          static_cast<int>(slabs));
  cuda_check_launch("low_rank: packing");
  return {to, chunks, tile_n, static_cast<int>(tiles), static_cast<int>(slabs)};
}

uint4* packed_workspace(CudaDevice& device, int64_t chunks) {
  return reinterpret_cast<uint4*>(
      device.workspace(kSlotPacked, static_cast<size_t>(chunks) * sizeof(uint4)));
}

Packed pack(CudaDevice& device, int64_t docs, const Matrix& m, int tile_n, int64_t tiles,
            int64_t slabs) {
  return pack_to(device, docs, m, tile_n, tiles, slabs,
                 packed_workspace(device, docs * tiles * slabs * tile_n * 4));
}

__device__ uint32_t add_pair(uint32_t y, float low, float high) {
  const float2 before = unpack_bf16(y);
  return pack_bf16(before.x + low, before.y + high);
}

// ---------------------------------------------------------------------------------------------
// y (+)= x M

constexpr int kProductThreads = 128, kProductStages = 4;
constexpr int kProductRows = 128;  // to a tile

struct Product {
  const int32_t* doc_rows;
  int docs;
  const bf16* x;  // [rows, k], rows x_pitch apart
  int k, x_pitch;
  Packed m;
  bf16* y;  // [rows, n], rows y_pitch apart
  int n, y_pitch;
};

template <int kN>
constexpr int kProductPiece = kN* kSlab / 8;  // 16-byte chunks of M in a slab
template <int kN>
constexpr int kProductRing = kProductStages* kProductPiece<kN>;

// A block of kThreads threads owns a tile of one document's rows and kN columns of y, a warp an
// equal share of the rows. Slabs of M pass through a ring in shared memory, `ring`
// [kProductRing<kN>]; a row of x is one warp's alone and goes straight to its registers, two slabs
// ahead. A block that calls this again waits for all of its threads first.
template <int kN, bool kAdd, int kThreads>
__device__ __forceinline__ void product_tile(const Product& p, const DocTile& tile, int column_tile,
                                             uint4* ring) {
  constexpr int kPiece = kProductPiece<kN>;
  constexpr int kWarpRows = kProductRows / (kThreads / 32), kHalves = kWarpRows / 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int row0 = kWarpRows * warp + lane / 4;     // and 8, 16 … further on
  const bool idle = kWarpRows * warp >= tile.rows;  // a warp that only copies
  const bf16* const x = p.x + (tile.begin + row0) * p.x_pitch + 8 * t;
  const int slabs = p.m.slabs;
  const uint4* const from =
      p.m.data + tile.doc * p.m.doc_step + int64_t{column_tile} * slabs * kPiece;

  const auto fetch = [&](int i) {
    if (i < slabs) {
#pragma unroll
      for (int j = 0; j < kPiece; j += kThreads)
        if (kPiece % kThreads == 0 || j + static_cast<int>(threadIdx.x) < kPiece)
          copy_async_16(ring + i % kProductStages * kPiece + j + threadIdx.x,
                        from + int64_t{i} * kPiece + j + threadIdx.x);
    }
    copy_async_commit();
  };
  struct Operand {
    uint4 row[2 * kHalves];
  };
  const auto load = [&](int i) {
    Operand a{};
    if (kSlab * i + 8 * t < p.k) {
#pragma unroll
      for (int r = 0; r < 2 * kHalves; ++r)
        if (row0 + 8 * r < tile.rows)
          a.row[r] = *reinterpret_cast<const uint4*>(x + int64_t{8 * r} * p.x_pitch + kSlab * i);
    }
    return a;
  };

  for (int i = 0; i < kProductStages - 1; ++i) fetch(i);
  float sum[kHalves][kN / 8][4] = {};
  Operand next = load(0), later = load(1);
#pragma unroll 1
  for (int i = 0; i < slabs; ++i) {
    copy_async_wait<kProductStages - 2>();
    __syncthreads();  // slab i is there for all, and nobody reads slab i − 1 any more
    fetch(i + kProductStages - 1);
    if (idle) continue;
    const Operand a = next;
    next = later;
    later = load(i + 2);
    const uint4* const slab = ring + i % kProductStages * kPiece + lane;
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      const uint4 m = slab[32 * j];
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        const uint4 &u = a.row[2 * h], &v = a.row[2 * h + 1];
        mma_bf16(sum[h][j], u.x, v.x, u.y, v.y, m.x, m.y);
        mma_bf16(sum[h][j], u.z, v.z, u.w, v.w, m.z, m.w);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < 2 * kHalves; ++r) {
    if (row0 + 8 * r >= tile.rows) continue;
    bf16* const y = p.y + (tile.begin + row0 + 8 * r) * p.y_pitch;
    const int e = r % 2 * 2;
#pragma unroll
    for (int b = 0; b < kN / 32; ++b) {
      const int col = column_tile * kN + 32 * b + 8 * t;
      if (col >= p.n) continue;
      const auto& s = sum[r / 2];
      auto* const to = reinterpret_cast<uint4*>(y + col);
      uint4 v{};
      if (kAdd) v = *to;
      v = {add_pair(v.x, s[4 * b][e], s[4 * b][e + 1]),
           add_pair(v.y, s[4 * b + 1][e], s[4 * b + 1][e + 1]),
           add_pair(v.z, s[4 * b + 2][e], s[4 * b + 2][e + 1]),
           add_pair(v.w, s[4 * b + 3][e], s[4 * b + 3][e + 1])};
      *to = v;
    }
  }
}

// Blocks of the same rows are neighbours: x comes from memory once.
template <int kN, bool kAdd>
__global__ void __launch_bounds__(kProductThreads, kN <= 96 ? 3 : 2)
    product_kernel(const __grid_constant__ Product p) {
  __shared__ uint4 ring[kProductRing<kN>];
  const int place = static_cast<int>(blockIdx.x);
  const DocTile tile = find_doc_tile<kProductRows>(p.doc_rows, p.docs, place / p.m.tiles);
  if (tile.rows == 0) return;
  product_tile<kN, kAdd, kProductThreads>(p, tile, place % p.m.tiles, ring);
}

// y (+)= x M for [rows, m.k] elements of rows x_pitch apart, [rows, m.n] of rows y_pitch apart.
template <bool kAdd, class Pairs>
void run_product(CudaDevice& device, const Pairs& pairs, int64_t rows, const bf16* x,
                 int64_t x_pitch, const Matrix& m, bf16* y, int64_t y_pitch) {
  const auto launch = [&](auto width) {
    constexpr int kN = decltype(width)::value;
    const Product p{.doc_rows = pairs.doc_rows.data,
                    .docs = static_cast<int>(pairs.docs),
                    .x = x,
                    .k = m.k,
                    .x_pitch = static_cast<int>(x_pitch),
                    .m = pack(device, pairs.docs, m, kN, ceil_div(m.n, kN), ceil_div(m.k, kSlab)),
                    .y = y,
                    .n = m.n,
                    .y_pitch = static_cast<int>(y_pitch)};
    const unsigned blocks =
        most_doc_tiles<kProductRows>(rows, pairs.docs) * static_cast<unsigned>(p.m.tiles);
    product_kernel<kN, kAdd><<<blocks, kProductThreads, 0, device.stream()>>>(p);
    cuda_check_launch("low_rank: product");
  };
  // The wider tile unless more of it would be padding.
  if (ceil_div(m.n, 96) * 96 < ceil_div(m.n, 128) * 128)
    launch(std::integral_constant<int, 96>{});
  else
    launch(std::integral_constant<int, 128>{});
}

// ---------------------------------------------------------------------------------------------
// y += mid M

constexpr int kSpreadThreads = 256;
constexpr int kSpreadRows = kSpreadThreads / 2;      // 16 a warp
constexpr int kSpreadStages = 3, kSpreadWidth = 64;  // columns of y to a stage

struct Spread {
  const int32_t* doc_rows;
  int docs;
  const bf16* mid;  // [rows, k], rows mid_pitch apart
  int k, mid_pitch;
  Packed m;  // tile_n is 32
  bf16* y;   // [rows, n]
  int n;
};

// A block owns a tile of one document's rows, a warp 16 of them; blockIdx.y is the share of y's
// columns. Pieces of M pass through a ring in shared memory; a row of y is one warp's alone and
// goes straight to its registers.
template <int kRank>
__global__ void __launch_bounds__(kSpreadThreads, kRank <= 128 ? 2 : 1)
    spread_kernel(const __grid_constant__ Spread c) {
  constexpr int kStage = kSpreadWidth * kRank / 8;  // 16-byte chunks
  static_assert(kStage % kSpreadThreads == 0);
  extern __shared__ uint4 ring[];  // [kSpreadStages, kStage]

  const DocTile tile = find_doc_tile<kSpreadRows>(c.doc_rows, c.docs, blockIdx.x);
  if (tile.rows == 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int row0 = 16 * warp + lane / 4, row1 = row0 + 8;
  const bool valid0 = row0 < tile.rows, valid1 = row1 < tile.rows;
  const bool idle = 16 * warp >= tile.rows;  // a warp that only copies
  const bf16* const x = c.mid + (tile.begin + row0) * c.mid_pitch;
  bf16* const y = c.y + (tile.begin + row0) * c.n;

  const int all_stages = (c.n + kSpreadWidth - 1) / kSpreadWidth;
  const int shares = gridDim.y, share = blockIdx.y;
  const int stage_begin = all_stages * share / shares;
  const int stages = all_stages * (share + 1) / shares - stage_begin;
  const int y_end = min(c.n, kSpreadWidth * (stage_begin + stages));  // from here on: others'
  const uint4* const from = c.m.data + tile.doc * c.m.doc_step + int64_t{stage_begin} * kStage;

  const auto fetch = [&](int i) {
    if (i < stages) {
#pragma unroll
      for (int j = 0; j < kStage; j += kSpreadThreads)
        copy_async_16(ring + i % kSpreadStages * kStage + j + threadIdx.x,
                      from + int64_t{i} * kStage + j + threadIdx.x);
    }
    copy_async_commit();
  };
  // This lane's 16 bytes of either of its rows in a step of 32 columns, and two steps ahead.
  struct Rows {
    uint4 a, b;
  };
  const auto load = [&](const bf16* row, int width, int pitch, int step) {
    const int col = 32 * step + 8 * t;
    Rows r{};
    if (col < width && valid0) r.a = *reinterpret_cast<const uint4*>(row + col);
    if (col < width && valid1) r.b = *reinterpret_cast<const uint4*>(row + (col + 8 * pitch));
    return r;
  };
  for (int i = 0; i < kSpreadStages - 1; ++i) fetch(i);

  Rows mid[kRank / 32];
#pragma unroll
  for (int k = 0; k < kRank / 32; ++k) mid[k] = load(x, c.k, c.mid_pitch, k);
  Rows ahead[2];
  for (int h = 0; h < 2; ++h) ahead[h] = load(y, y_end, c.n, 2 * stage_begin + h);

  // Steps are not unrolled: the compiler would fill all registers with operands, and more.
  const uint4* stage = nullptr;
#pragma unroll 1
  for (int step = 0; step < 2 * stages; ++step) {
    if (step % 2 == 0) {
      copy_async_wait<kSpreadStages - 2>();
      __syncthreads();  // the stage is there for all, and nobody reads the one before any more
      fetch(step / 2 + kSpreadStages - 1);
      stage = ring + step / 2 % kSpreadStages * kStage;
    } else {
      stage += kStage / 2;
    }
    if (idle) continue;
    const int place = 2 * stage_begin + step, col = 32 * place + 8 * t;
    const Rows now = ahead[0];
    ahead[0] = ahead[1];
    ahead[1] = load(y, y_end, c.n, place + 2);
    float sum[4][4] = {};
#pragma unroll
    for (int k = 0; k < kRank / 32; ++k) {
      const uint4 &u = mid[k].a, &v = mid[k].b;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint4 m = stage[32 * (4 * k + j) + lane];
        mma_bf16(sum[j], u.x, v.x, u.y, v.y, m.x, m.y);
        mma_bf16(sum[j], u.z, v.z, u.w, v.w, m.z, m.w);
      }
    }
    if (col < c.n && valid0)
      *reinterpret_cast<uint4*>(y + col) = {
          add_pair(now.a.x, sum[0][0], sum[0][1]), add_pair(now.a.y, sum[1][0], sum[1][1]),
          add_pair(now.a.z, sum[2][0], sum[2][1]), add_pair(now.a.w, sum[3][0], sum[3][1])};
    if (col < c.n && valid1)
      *reinterpret_cast<uint4*>(y + (col + 8 * c.n)) = {
          add_pair(now.b.x, sum[0][2], sum[0][3]), add_pair(now.b.y, sum[1][2], sum[1][3]),
          add_pair(now.b.z, sum[2][2], sum[2][3]), add_pair(now.b.w, sum[3][2], sum[3][3])};
  }
}

// y += mid M for [rows, m.k] elements of rows mid_pitch apart, y [rows, m.n].
template <class Pairs>
void run_spread(CudaDevice& device, const Pairs& pairs, int64_t rows, const bf16* mid,
                int64_t mid_pitch, const Matrix& m, bf16* y) {
  // Few tiles share y's columns out among blocks.
  constexpr int64_t kStagesWorthABlock = 4;
  const int64_t stages = ceil_div(m.n, kSpreadWidth);
  const unsigned tiles = most_doc_tiles<kSpreadRows>(rows, pairs.docs);
  const int64_t wanted = 2 * device.multiprocessors() / static_cast<int64_t>(tiles);
  const int64_t shares = std::max<int64_t>(1, std::min(wanted, stages / kStagesWorthABlock));
  with_kernel_rank(m.k, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    constexpr int kBytes = kSpreadStages * kSpreadWidth * kRank * 2;
    const Spread c{.doc_rows = pairs.doc_rows.data,
                   .docs = static_cast<int>(pairs.docs),
                   .mid = mid,
                   .k = m.k,
                   .mid_pitch = static_cast<int>(mid_pitch),
                   .m = pack(device, pairs.docs, m, 32, stages * kSpreadWidth / 32, kRank / kSlab),
                   .y = y,
                   .n = m.n};
    allow_shared(spread_kernel<kRank>, kBytes);
    spread_kernel<kRank>
        <<<dim3(tiles, static_cast<unsigned>(shares)), kSpreadThreads, kBytes, device.stream()>>>(
            c);
  });
  cuda_check_launch("low_rank: spread");
}

// ---------------------------------------------------------------------------------------------
// d[wide, rank] = wideᵀ narrow over each document's rows

constexpr int kGradientThreads = 256, kGradientStages = 3;
constexpr int kTileWide = 128;     // columns of `wide` to a block
constexpr int kGradientRows = 32;  // rows to a stage
// Longer documents are cut into chunks of rows: several blocks sum them, and another kernel adds
// the sums in order.
constexpr int kChunkRows = 2048;

struct Gradient {
  const int32_t* doc_rows = nullptr;
  int docs = 0;
  const bf16* wide = nullptr;    // [rows, width]
  const bf16* narrow = nullptr;  // [rows, count·rank], rows narrow_pitch apart
  int width = 0, tiles = 0, narrow_pitch = 0;
  std::array<float*, kMaxLowRankGroup> d{};
  int count = 0, rank = 0;
  // Element (w, r) of d at w·wide_step + r·rank_step.
  int64_t doc_step = 0, wide_step = 0, rank_step = 0;
  const float* wide_scale = nullptr;  // factors of `wide`'s columns; null: 1
  float* partial = nullptr;           // [chunks, count, width·rank]: see partial_of
};

// Where chunk `number` ≥ 1 of a document that begins at row `begin` leaves its sums. Such chunks
// begin at least kChunkRows rows apart, and as far from row 0.
__device__ float* partial_of(const Gradient& g, int64_t begin, int number, int adapter) {
  const int64_t slot = begin / kChunkRows + number - 1;
  return g.partial + (slot * g.count + adapter) * g.width * g.rank;
}

template <int kRank>
constexpr int kGradientBytes = kGradientStages* kGradientRows*(2 * kTileWide + 16 + 2 * kRank + 16);

// A block owns kTileWide rows of one adapter's d of one document (or of a chunk of it), a warp 32
// of them and half of the rank. A row's columns are 16 bytes apart from a power of two in shared
// memory, `shared` [kGradientBytes<kRank>]: no bank conflicts.
template <int kRank>
__device__ __forceinline__ void gradient_tile(const Gradient& g, const DocTile& chunk, int adapter,
                                              int wide_tile, uint4* shared) {
  constexpr int kWidePitch = 2 * kTileWide + 16, kNarrowPitch = 2 * kRank + 16;  // bytes
  constexpr int kNarrowAt = kGradientRows * kWidePitch;
  constexpr int kStage = kNarrowAt + kGradientRows * kNarrowPitch;
  constexpr int kWidePieces = kTileWide / 8, kNarrowPieces = kRank / 8;  // of a row
  static_assert(kGradientStages * kStage == kGradientBytes<kRank>);
  char* const ring = reinterpret_cast<char*>(shared);  // [kGradientStages, kStage]

  const int wide_begin = kTileWide * wide_tile;
  const int rows = chunk.rows;
  const bf16* const wide = g.wide + chunk.begin * g.width + wide_begin;
  const bf16* const narrow = g.narrow + chunk.begin * g.narrow_pitch + adapter * g.rank;
  const int width_left = g.width - wide_begin;
  const int stages = (rows + kGradientRows - 1) / kGradientRows;

  const auto fetch = [&](int i) {
    if (i < stages) {
      char* const to = ring + i % kGradientStages * kStage;
      const int first = i * kGradientRows;
#pragma unroll
      for (int p = threadIdx.x; p < kGradientRows * kWidePieces; p += kGradientThreads) {
        const int row = p / kWidePieces, col = p % kWidePieces * 8;
        const bool valid = first + row < rows && col < width_left;
        copy_async_16_or_zero(to + row * kWidePitch + 2 * col,
                              valid ? wide + int64_t{first + row} * g.width + col : wide, valid);
      }
#pragma unroll
      for (int p = threadIdx.x; p < kGradientRows * kNarrowPieces; p += kGradientThreads) {
        const int row = p / kNarrowPieces, col = p % kNarrowPieces * 8;
        const bool valid = first + row < rows && col < g.rank;
        copy_async_16_or_zero(to + kNarrowAt + row * kNarrowPitch + 2 * col,
                              valid ? narrow + int64_t{first + row} * g.narrow_pitch + col : narrow,
                              valid);
      }
    }
    copy_async_commit();
  };

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_wide = warp % 4 * 32, warp_rank = warp / 4 * (kRank / 2);
  // Lane 8i + j addresses row j of matrix i. Left operand: matrices 1 and 3 are 8 columns of
  // `wide` further on, 2 and 3 are 8 rows down. Right operand: the other way round.
  const int lane_row = lane % 8, odd = lane / 8 % 2 * 8, high = lane / 16 * 8;
  const int wide_at = (high + lane_row) * kWidePitch + 2 * (warp_wide + odd);
  const int narrow_at = kNarrowAt + (odd + lane_row) * kNarrowPitch + 2 * (warp_rank + high);

  float sum[2][kRank / 16][4] = {};
  for (int i = 0; i < kGradientStages - 1; ++i) fetch(i);
#pragma unroll 1
  for (int i = 0; i < stages; ++i) {
    copy_async_wait<kGradientStages - 2>();
    __syncthreads();
    fetch(i + kGradientStages - 1);
    const char* const stage = ring + i % kGradientStages * kStage;
#pragma unroll
    for (int k = 0; k < kGradientRows; k += 16) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m)
        load_matrices_transposed(a[m], stage + wide_at + k * kWidePitch + 32 * m);
#pragma unroll
      for (int n = 0; n < kRank / 32; ++n) {
        uint32_t b[4];
        load_matrices_transposed(b, stage + narrow_at + k * kNarrowPitch + 32 * n);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_bf16(sum[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
          mma_bf16(sum[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
        }
      }
    }
  }

  float* const d =
      chunk.number == 0
          ? g.d[adapter] + chunk.doc * g.doc_step
          : partial_of(g, chunk.begin - int64_t{kChunkRows} * chunk.number, chunk.number, adapter);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kRank / 16; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int w = wide_begin + warp_wide + 16 * m + lane / 4 + e / 2 * 8;
        const int r = warp_rank + 8 * n + 2 * (lane % 4) + e % 2;
        if (w < g.width && r < g.rank)
          d[w * g.wide_step + r * g.rank_step] =
              g.wide_scale ? g.wide_scale[w] * sum[m][n][e] : sum[m][n][e];
      }
}

// Blocks of the same rows are neighbours.
template <int kRank>
__global__ void __launch_bounds__(kGradientThreads, kRank <= 96 ? 2 : 1)
    gradient_kernel(const __grid_constant__ Gradient g) {
  extern __shared__ uint4 shared[];
  const int adapter = static_cast<int>(blockIdx.x) % g.count;
  const int place = static_cast<int>(blockIdx.x) / g.count;
  const DocTile chunk = find_doc_tile<kChunkRows, true>(g.doc_rows, g.docs, place / g.tiles);
  if (chunk.doc >= 0) gradient_tile<kRank>(g, chunk, adapter, place % g.tiles, shared);
}

// d += the sums of the chunks behind the first, in order. Grid (blocks of elements, adapters,
// documents).
constexpr int kSumThreads = 256, kSumBlocks = 8;
__device__ __forceinline__ void sum_chunks(const Gradient& g, int doc, int adapter) {
  const int64_t begin = int64_t{g.doc_rows[doc]} - g.doc_rows[0];
  const int chunks = (g.doc_rows[doc + 1] - g.doc_rows[doc] + kChunkRows - 1) / kChunkRows;
  float* const d = g.d[adapter] + doc * g.doc_step;
  if (chunks <= 1) return;
  for (int i = blockIdx.x * kSumThreads + threadIdx.x; i < g.width * g.rank;
       i += gridDim.x * kSumThreads) {
    float sum = d[i];
    for (int c = 1; c < chunks; ++c) sum += partial_of(g, begin, c, adapter)[i];
    d[i] = sum;
  }
}
__global__ void __launch_bounds__(kSumThreads)
    sum_chunks_kernel(const __grid_constant__ Gradient g) {
  sum_chunks(g, blockIdx.z, blockIdx.y);
}

void run_gradient(CudaDevice& device, int64_t total_rows, Gradient g) {
  g.tiles = static_cast<int>(ceil_div(g.width, kTileWide));
  // No more chunks than this are behind their document's first.
  const int64_t extra = total_rows / kChunkRows, elements = int64_t{g.width} * g.rank;
  g.partial = reinterpret_cast<float*>(device.workspace(
      kSlotPartial, static_cast<size_t>(extra * g.count * elements) * sizeof(float)));
  const unsigned blocks =
      most_doc_tiles<kChunkRows>(total_rows, g.docs) * static_cast<unsigned>(g.tiles * g.count);
  with_kernel_rank(g.rank, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    constexpr int kBytes = kGradientBytes<kRank>;
    allow_shared(gradient_kernel<kRank>, kBytes);
    gradient_kernel<kRank><<<blocks, kGradientThreads, kBytes, device.stream()>>>(g);
  });
  cuda_check_launch("low_rank: gradient");
  if (total_rows <= kChunkRows) return;
  const dim3 grid(kSumBlocks, static_cast<unsigned>(g.count), static_cast<unsigned>(g.docs));
  sum_chunks_kernel<<<grid, kSumThreads, 0, device.stream()>>>(g);
  cuda_check_launch("low_rank: sum of chunks");
}

// ---------------------------------------------------------------------------------------------
// Several adapters' dxa = g B and dB = gᵀ xa

constexpr int kProductShares = 4;  // blocks that share the row tiles of a chunk

struct UpsBackward {
  const int32_t* doc_rows = nullptr;
  int docs = 0, count = 0;
  int begin[kMaxLowRankGroup + 1] = {};  // adapter i has blocks begin[i] … of those of a chunk
  Product product[kMaxLowRankGroup] = {};
  Gradient gradient[kMaxLowRankGroup] = {};  // of one adapter each; without d not wanted
};

// For a chunk of a document's rows and an adapter, kProductShares blocks are for dxa and the others
// for dB. They are neighbours and go through the rows at about the same pace: g comes from memory
// once.
template <int kRank>
__global__ void __launch_bounds__(kGradientThreads, kRank <= 96 ? 2 : 1)
    ups_backward_kernel(const __grid_constant__ UpsBackward u) {
  extern __shared__ uint4 shared[];
  const int blocks = u.begin[u.count];  // of a chunk
  const DocTile chunk =
      find_doc_tile<kChunkRows, true>(u.doc_rows, u.docs, static_cast<int>(blockIdx.x) / blocks);
  if (chunk.doc < 0) return;
  const int place = static_cast<int>(blockIdx.x) % blocks;
  int adapter = 0;
  while (place >= u.begin[adapter + 1]) ++adapter;
  const int role = place - u.begin[adapter];
  if (role >= kProductShares) {
    gradient_tile<kRank>(u.gradient[adapter], chunk, 0, role - kProductShares, shared);
    return;
  }
  for (int first = kProductRows * role; first < chunk.rows;
       first += kProductRows * kProductShares) {
    const int left = chunk.rows - first;
    const DocTile tile{chunk.begin + first, chunk.doc, left < kProductRows ? left : kProductRows};
    product_tile<kRank, false, kGradientThreads>(u.product[adapter], tile, 0, shared);
    __syncthreads();  // nobody reads the ring any more
  }
}

__global__ void __launch_bounds__(kSumThreads)
    sum_ups_kernel(const __grid_constant__ UpsBackward u) {
  const Gradient& g = u.gradient[blockIdx.y];
  if (g.d[0]) sum_chunks(g, blockIdx.z, 0);
}

}  // namespace

bool low_rank_fits_mma(int64_t rank, int64_t wide, const bf16* a, const bf16* b, const bf16* c) {
  const auto aligned = [](const bf16* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return rank <= kMaxRank && rank % 8 == 0 && wide % 8 == 0 && aligned(a) && aligned(b) &&
         aligned(c);
}

void low_rank_down_mma(CudaDevice& device, Tensor<const bf16> x,
                       const LowRankDown<const float>& down, Tensor<bf16> xa) {
  const Matrix at{.from = down.a,
                  .doc_step = down.stride,
                  .k_step = 1,
                  .n_step = down.in,
                  .k = static_cast<int>(down.in),
                  .n = static_cast<int>(down.width()),
                  .n_group = static_cast<int>(down.rank)};
  run_product<false>(device, down, x.extent(0), x.data, down.in, at, xa.data, down.width());
}

void low_rank_up_mma(CudaDevice& device, Tensor<const bf16> xa, const LowRankUp<const float>& up,
                     Tensor<bf16> y) {
  const Matrix bt{.from = {up.b},
                  .doc_step = up.stride,
                  .k_step = 1,
                  .n_step = up.rank,
                  .k = static_cast<int>(up.rank),
                  .n = static_cast<int>(up.out),
                  .n_scale = up.out_scale};
  run_spread(device, up, y.extent(0), xa.data + up.place * up.rank, xa.extent(1), bt, y.data);
}

void low_rank_ups_backward_mma(CudaDevice& device, std::span<const LowRankUpBackward<bf16>> ups,
                               Tensor<const bf16> xa, Tensor<bf16> dxa) {
  const auto& any = ups.front().up;
  const int64_t rows = xa.extent(0), rank = any.rank;
  UpsBackward u{.doc_rows = any.doc_rows.data,
                .docs = static_cast<int>(any.docs),
                .count = static_cast<int>(ups.size())};
  with_kernel_rank(rank, [&](auto kernel_rank) {
    constexpr int kRank = decltype(kernel_rank)::value;
    // 16-byte chunks of a B, and floats of the sums of the chunks of rows behind the first.
    const auto slabs = [](const auto& one) { return ceil_div(one.up.out, kSlab); };
    const auto chunks = [&](const auto& one) { return any.docs * slabs(one) * kRank * 4; };
    const auto sums = [&](const auto& one) { return rows / kChunkRows * one.up.out * rank; };
    int64_t all_chunks = 0, all_sums = 0;
    for (const auto& one : ups) {
      all_chunks += chunks(one);
      all_sums += one.db ? sums(one) : 0;
    }
    uint4* packed = packed_workspace(device, all_chunks);
    auto* partial = reinterpret_cast<float*>(
        device.workspace(kSlotPartial, static_cast<size_t>(all_sums) * sizeof(float)));
    for (size_t i = 0; i < ups.size(); ++i) {
      const auto& [up, dy, db] = ups[i];
      const int64_t column = up.place * rank;
      const int width = static_cast<int>(up.out);
      const Matrix b{.from = {up.b},
                     .doc_step = up.stride,
                     .k_step = rank,
                     .n_step = 1,
                     .k = width,
                     .n = static_cast<int>(rank),
                     .k_scale = up.out_scale};
      u.product[i] = {.doc_rows = u.doc_rows,
                      .docs = u.docs,
                      .x = dy.data,
                      .k = width,
                      .x_pitch = width,
                      .m = pack_to(device, any.docs, b, kRank, 1, slabs(ups[i]), packed),
                      .y = dxa.data + column,
                      .n = static_cast<int>(rank),
                      .y_pitch = static_cast<int>(dxa.extent(1))};
      packed += chunks(ups[i]);
      u.begin[i + 1] = u.begin[i] + kProductShares;
      if (!db) continue;
      u.gradient[i] = {.doc_rows = u.doc_rows,
                       .docs = u.docs,
                       .wide = dy.data,
                       .narrow = xa.data + column,
                       .width = width,
                       .tiles = static_cast<int>(ceil_div(width, kTileWide)),
                       .narrow_pitch = static_cast<int>(xa.extent(1)),
                       .d = {db},
                       .count = 1,
                       .rank = static_cast<int>(rank),
                       .doc_step = up.stride,
                       .wide_step = rank,
                       .rank_step = 1,
                       .wide_scale = up.out_scale,
                       .partial = partial};
      partial += sums(ups[i]);
      u.begin[i + 1] += u.gradient[i].tiles;
    }
    constexpr int kBytes =
        std::max(kGradientBytes<kRank>, kProductRing<kRank> * static_cast<int>(sizeof(uint4)));
    allow_shared(ups_backward_kernel<kRank>, kBytes);
    const unsigned blocks =
        most_doc_tiles<kChunkRows>(rows, any.docs) * static_cast<unsigned>(u.begin[u.count]);
    ups_backward_kernel<kRank><<<blocks, kGradientThreads, kBytes, device.stream()>>>(u);
  });
  cuda_check_launch("low_rank: ups, backward");
  if (rows <= kChunkRows) return;
  const dim3 grid(kSumBlocks, static_cast<unsigned>(u.count), static_cast<unsigned>(u.docs));
  sum_ups_kernel<<<grid, kSumThreads, 0, device.stream()>>>(u);
  cuda_check_launch("low_rank: sum of chunks");
}

void low_rank_down_backward_mma(CudaDevice& device, Tensor<const bf16> dxa, Tensor<const bf16> x,
                                const LowRankDown<const float>& down, Tensor<bf16> dx,
                                const LowRankDown<float>& da) {
  // Wider ones are a sum that `product` keeps in registers.
  constexpr int64_t kWidestSpread = 128;
  const int64_t rows = x.extent(0);
  const Matrix a{.from = down.a,
                 .doc_step = down.stride,
                 .k_step = down.in,
                 .n_step = 1,
                 .k = static_cast<int>(down.width()),
                 .n = static_cast<int>(down.in),
                 .k_group = static_cast<int>(down.rank)};
  if (dx && rows > 0) {
    if (down.width() <= kWidestSpread)
      run_spread(device, down, rows, dxa.data, down.width(), a, dx.data);
    else
      run_product<true>(device, down, rows, dxa.data, down.width(), a, dx.data, down.in);
  }
  if (da)
    run_gradient(device, rows,
                 {.doc_rows = down.doc_rows.data,
                  .docs = static_cast<int>(down.docs),
                  .wide = x.data,
                  .narrow = dxa.data,
                  .width = static_cast<int>(down.in),
                  .narrow_pitch = static_cast<int>(down.width()),
                  .d = da.a,
                  .count = down.count,
                  .rank = static_cast<int>(down.rank),
                  .doc_step = da.stride,
                  .wide_step = 1,
                  .rank_step = down.in});
}

}  // namespace fairway
