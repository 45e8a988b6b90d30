// What the Hopper kernels of adapters' gradients share. A product over a document's rows, dA = dxaᵀ
// x or dB = dyᵀ xa, takes both operands as they lie: rows are K, and wgmma reads them contiguous
// along M and N. Rows come in stages of 64, from the copy engine through a ring in shared memory;
// the last stage of a document holds rows of the next one too, which are made zero.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank_gradient.cuh"
#include "fairway/sm90/fence.cuh"
#include "fairway/sm90/mbarrier.cuh"
#include "fairway/sm90/tensor_map.h"
#include "fairway/sm90/warpgroup.cuh"
#include "fairway/sm90/wgmma.cuh"

namespace fairway::cuda::low_rank_sm90 {

using namespace fairway::sm90;
using namespace low_rank;

constexpr int kStageRows = kBox;
constexpr int kRowBytes = kBox * 2, kNarrowRowBytes = kNarrowBox * 2;  // of a box in shared memory

// D[64, kN] (+)= A B for a step of 16 along K, by kN.
template <int kN, int kTransA, int kTransB>
__device__ __forceinline__ void multiply(float (&d)[kN / 2], uint64_t a, uint64_t b,
                                         bool accumulate) {
  static_assert(kN == 32 || kN == 64 || kN == 96 || kN == 128);
  if constexpr (kN == 32) wgmma_m64n32k16<kTransA, kTransB>(d, a, b, accumulate);
  if constexpr (kN == 64) wgmma_m64n64k16<kTransA, kTransB>(d, a, b, accumulate);
  if constexpr (kN == 96) wgmma_m64n96k16<kTransA, kTransB>(d, a, b, accumulate);
  if constexpr (kN == 128) wgmma_m64n128k16<kTransA, kTransB>(d, a, b, accumulate);
}

// Lane q of a quad has word j of row q; afterwards it has word q of row j.
__device__ __forceinline__ void transpose_quad(uint32_t (&x)[4], int lane) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j & bit) continue;
      const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, upper ? x[j] : x[j | bit], bit);
      (upper ? x[j] : x[j | bit]) = other;
    }
  }
}
// Of 32 columns of a row, of which lane q of a quad has 8 j + 2 q and the next as v[4 j] and
// v[4 j + 1]: columns 8 q … 8 q + 7 in bf16. By whole warps.
__device__ __forceinline__ uint4 neighbouring_8(const float* v, int lane) {
  uint32_t x[4] = {pack_bf16(v[0], v[1]), pack_bf16(v[4], v[5]), pack_bf16(v[8], v[9]),
                   pack_bf16(v[12], v[13])};
  transpose_quad(x, lane);
  return {x[0], x[1], x[2], x[3]};
}
// Stores such a row of sums, its first column at `at`, of which `columns` exist, a multiple of 8.
// All lanes have `to` of the same kind.
__device__ __forceinline__ void store_sums_32(const SumsPlace& to, int64_t at, const float* v,
                                              int columns, int lane) {
  const int q = lane % 4;
  if (!to.partial) {
    const uint4 x = neighbouring_8(v, lane);
    if (8 * q < columns) *reinterpret_cast<uint4*>(to.d + at + 8 * q) = x;
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (8 * j < columns)
      *reinterpret_cast<float2*>(to.partial + at + 8 * j + 2 * q) = {v[4 * j], v[4 * j + 1]};
}

// A chunk of a document's rows, known to the compiler as the same in all lanes.
__device__ __forceinline__ DocTile find_chunk(const int32_t* doc_rows, int docs, int index) {
  DocTile chunk = find_doc_tile<kChunkRows, true>(doc_rows, docs, index);
  chunk.doc = warp_uniform(chunk.doc);
  chunk.rows = warp_uniform(chunk.rows);
  chunk.number = warp_uniform(chunk.number);
  return chunk;
}

// Zeros rows [valid, 64) of boxes of rows of kRowBytes that follow each other, by `threads` threads
// of which this is number `thread`. A row's 16-byte pieces stay within it, whatever the swizzle.
template <int kBoxes, int kRow>
__device__ __forceinline__ void zero_rows(uint8_t* boxes, int valid, int thread, int threads) {
  constexpr int kPieces = kRow / 16;
  const int pieces = (kStageRows - valid) * kPieces;
#pragma unroll 1
  for (int i = thread; i < kBoxes * pieces; i += threads)
    *reinterpret_cast<uint4*>(boxes + i / pieces * (kStageRows * kRow) + valid * kRow +
                              i % pieces * 16) = uint4{};
}

}  // namespace fairway::cuda::low_rank_sm90
