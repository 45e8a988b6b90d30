// The second half of adapters that are as wide as a vocabulary: y += out_scale⊙(xa Bᵀ), dxa = g B
// and dB = gᵀ xa, g = out_scale⊙dy.
//
// Of few rows a document, as test-time training has them, these take as long as B and dB take to
// come and go. So B is read as it is, in float32, and rounded to bf16 in registers, where every
// lane gets what it needs of it as right operand of mma m16n8k16 in 16 bytes of a row: what order
// the columns of an instruction are in is up to the kernel. xa is in shared memory in the order
// that suits B's 16 bytes forward and dB's backward.
#pragma once

#include <cstdint>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_kernel.cuh"
#include "fairway/ops/mma_cuda.h"

namespace fairway::cuda::low_rank_wide {

constexpr int kMostRank = 96;  // that `up_kernel` holds in registers
constexpr int kRows = 32;      // that a block multiplies at a time

// Bytes of a row of xa in shared memory; ldmatrix has no bank conflicts.
template <int kRank>
constexpr int kXaPitch = 2 * kRank + 16;

// Begins to copy the first kRows rows of `rows` of xa, by kThreads threads; what lies behind
// becomes zero. Columns 4q + 2p + e of each 16 are at 8p + 2q + e, for p, e < 2: as an
// instruction's k they leave lane q of four with columns 4q … 4q+3, and so do the sums of two
// instructions whose n they are.
template <int kRank, int kThreads>
__device__ __forceinline__ void fetch_xa(char* to, const bf16* xa, int64_t pitch, int rows) {
  constexpr int kPairs = kRank / 2;
  static_assert(kRows * kPairs % kThreads == 0);
#pragma unroll
  for (int j = 0; j < kRows * kPairs; j += kThreads) {
    const int i = j + static_cast<int>(threadIdx.x);
    const int row = i / kPairs, pair = i % kPairs;
    const bool valid = row < rows;
    copy_async_4_or_zero(
        to + row * kXaPitch<kRank> + pair / 8 * 32 + pair % 2 * 16 + pair % 8 / 2 * 4,
        valid ? xa + row * pitch + 2 * pair : xa, valid);
  }
}

// Four neighbouring elements of B, which other data may displace from the caches: nobody reads them
// soon again.
__device__ __forceinline__ float4 load_b(const float* from) {
  return __ldcs(reinterpret_cast<const float4*>(from));
}

}  // namespace fairway::cuda::low_rank_wide
