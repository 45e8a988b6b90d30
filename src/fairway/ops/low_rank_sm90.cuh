// What the Hopper kernels of adapters' gradients share. A product over a document's rows, dA = dxaᵀ
// x or dB = dyᵀ xa, takes both operands as they lie: rows are K, and wgmma reads them contiguous
// along M and N. Rows come in stages of 64, from the copy engine through a ring in shared memory;
// the last stage of a document holds rows of the next one too, which are made zero.
#pragma once

#include <cstdint>
#include <type_traits>

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
