// d[wide, rank] = wideᵀ narrow over each document's rows on tensor cores.
#pragma once

#include <array>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_gradient.cuh"
#include "fairway/ops/low_rank_mma.cuh"
#include "fairway/ops/mma_cuda.h"

namespace fairway::cuda::low_rank_mma {

using namespace low_rank;

constexpr int kGradientThreads = 256, kGradientStages = 3;
constexpr int kTileWide = 128;     // columns of `wide` to a block
constexpr int kGradientRows = 32;  // rows to a stage

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

  const SumsPlace to = sums_of(g, chunk, adapter);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kRank / 16; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int w = wide_begin + warp_wide + 16 * m + lane / 4 + e / 2 * 8;
        const int r = warp_rank + 8 * n + 2 * (lane % 4) + e % 2;
        if (w < g.width && r < g.rank)
          to.store(w * g.wide_step + r * g.rank_step,
                   g.wide_scale ? g.wide_scale[w] * sum[m][n][e] : sum[m][n][e]);
      }
}

// Blocks of the same rows are neighbours.
template <int kRank>
__global__ void __launch_bounds__(kGradientThreads, kRank <= 96 ? 2 : 1)
    gradient_kernel(const __grid_constant__ Gradient g) {
  wait_for_earlier_kernels();
  extern __shared__ uint4 shared[];
  const int adapter = static_cast<int>(blockIdx.x) % g.count;
  const int place = static_cast<int>(blockIdx.x) / g.count;
  const DocTile chunk = find_doc_tile<kChunkRows, true>(g.doc_rows, g.docs, place / g.tiles);
  if (chunk.doc >= 0) gradient_tile<kRank>(g, chunk, adapter, place % g.tiles, shared);
}

inline void run_gradient(CudaDevice& device, int64_t total_rows, Gradient g) {
  g.tiles = static_cast<int>(ceil_div(g.width, kTileWide));
  const unsigned blocks =
      most_doc_tiles<kChunkRows>(total_rows, g.docs) * static_cast<unsigned>(g.tiles * g.count);
  with_kernel_rank(g.rank, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    constexpr int kBytes = kGradientBytes<kRank>;
    allow_shared(gradient_kernel<kRank>, kBytes);
    launch_dependent(device.stream(), gradient_kernel<kRank>, blocks, kGradientThreads, kBytes, g);
  });
  cuda_check_launch("low_rank: gradient");
  run_sum_chunks(device, g);
}

}  // namespace fairway::cuda::low_rank_mma
