// What the low-rank kernels on tensor cores share.
//
// A document's matrix is packed to bf16 first, in the order in which the lanes of a warp read it as
// the right operand of mma m16n8k16 (low_rank_mma_pack.cuh): a piece of it is then contiguous,
// copied to shared memory as it is, and a warp reads consecutive bytes.
//
// Four kernels do the rest, each in its low_rank_mma_….cuh:
//   product: y = x M or y += x M, for a sum over many columns of x. xa = x Aᵀ, and dx += dxa A over
//     the ranks of several adapters.
//   spread: y += mid M, where mid's few columns stay in registers. y += xa Bᵀ, and dx += dxa A of
//     one adapter.
//   gradient: dA = dxaᵀ x over a document's rows, in order.
//   ups_backward: both products with dy, dxa = dy B as `product` and dB = dyᵀ xa as `gradient` does
//     them, side by side for several adapters.
#pragma once

#include <cstdint>
#include <utility>

#include "fairway/ops/low_rank_kernel.cuh"

namespace fairway::cuda::low_rank_mma {

constexpr int kMaxRank = 256;  // that `spread` holds in registers
constexpr int kSlab = 32;      // depth of a product's step: 16 bytes of each row a lane

template <class F>
void with_kernel_rank(int64_t rank, F&& f) {
  low_rank::with_kernel_rank<kMaxRank>(rank, std::forward<F>(f));
}
using low_rank::add_pair;

}  // namespace fairway::cuda::low_rank_mma
