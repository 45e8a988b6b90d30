// Several adapters' dxa = g B and dB = gᵀ xa on tensor cores, side by side.
#pragma once

#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_mma_gradient.cuh"
#include "fairway/ops/low_rank_mma_product.cuh"

namespace fairway::cuda::low_rank_mma {

constexpr int kProductShares = 4;  // blocks that share the row tiles of a chunk

struct UpsBackward {
  const int32_t* doc_rows = nullptr;
  int docs = 0, count = 0;
  int begin[kMaxLowRankGroup + 1] = {};  // adapter i has blocks begin[i] … of those of a chunk
  Product product[kMaxLowRankGroup] = {};
  UpsSums sums;
};

// For a chunk of a document's rows and an adapter, kProductShares blocks are for dxa and the others
// for dB. They are neighbours and go through the rows at about the same pace: g comes from memory
// once.
template <int kRank>
__global__ void __launch_bounds__(kGradientThreads, kRank <= 96 ? 2 : 1)
    ups_backward_kernel(const __grid_constant__ UpsBackward u) {
  wait_for_earlier_kernels();
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
    gradient_tile<kRank>(u.sums.gradient[adapter], chunk, 0, role - kProductShares, shared);
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

}  // namespace fairway::cuda::low_rank_mma
