// y (+)= x M on tensor cores, M a matrix of each document: for a sum over many columns of x.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank_mma.cuh"
#include "fairway/ops/low_rank_mma_pack.cuh"
#include "fairway/ops/mma_cuda.h"

namespace fairway::cuda::low_rank_mma {

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
  wait_for_earlier_kernels();
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
    launch_dependent(device.stream(), product_kernel<kN, kAdd>, blocks, kProductThreads, 0, p);
    cuda_check_launch("low_rank: product");
  };
  // The wider tile unless more of it would be padding.
  if (ceil_div(m.n, 96) * 96 < ceil_div(m.n, 128) * 128)
    launch(std::integral_constant<int, 96>{});
  else
    launch(std::integral_constant<int, 128>{});
}

}  // namespace fairway::cuda::low_rank_mma
