// d[wide, rank] = wideᵀ narrow over each document's rows on tensor cores.
#pragma once

#include <array>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_mma.cuh"
#include "fairway/ops/mma_cuda.h"

namespace fairway::cuda::low_rank_mma {

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
__device__ inline float* partial_of(const Gradient& g, int64_t begin, int number, int adapter) {
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
static __global__ void __launch_bounds__(kSumThreads)
    sum_chunks_kernel(const __grid_constant__ Gradient g) {
  sum_chunks(g, blockIdx.z, blockIdx.y);
}

inline void run_gradient(CudaDevice& device, int64_t total_rows, Gradient g) {
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

}  // namespace fairway::cuda::low_rank_mma
