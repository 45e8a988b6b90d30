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
#include <type_traits>

#include "fairway/base/bf16_cuda.cuh"

namespace fairway::cuda::low_rank_mma {

constexpr int64_t kMaxRank = 256;  // that `spread` holds in registers
constexpr int kSlab = 32;          // depth of a product's step: 16 bytes of each row a lane

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

__device__ inline uint32_t add_pair(uint32_t y, float low, float high) {
  const float2 before = unpack_bf16(y);
  return pack_bf16(before.x + low, before.y + high);
}

}  // namespace fairway::cuda::low_rank_mma
