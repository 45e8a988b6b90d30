// The low-rank products on tensor cores: which matrices go to which kernels (low_rank_mma.cuh).
#include <algorithm>
#include <span>

#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/low_rank_mma.cuh"
#include "fairway/ops/low_rank_mma_cuda.h"
#include "fairway/ops/low_rank_mma_gradient.cuh"
#include "fairway/ops/low_rank_mma_pack.cuh"
#include "fairway/ops/low_rank_mma_product.cuh"
#include "fairway/ops/low_rank_mma_spread.cuh"
#include "fairway/ops/low_rank_mma_ups_backward.cuh"

namespace fairway {

using namespace cuda::low_rank_mma;

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
                .count = static_cast<int>(ups.size()),
                .sums = {.count = static_cast<int>(ups.size())}};
  with_kernel_rank(rank, [&](auto kernel_rank) {
    constexpr int kRank = decltype(kernel_rank)::value;
    // 16-byte chunks of a B.
    const auto slabs = [](const auto& one) { return ceil_div(one.up.out, kSlab); };
    const auto chunks = [&](const auto& one) { return any.docs * slabs(one) * kRank * 4; };
    const auto sums = [&](const auto& one) {
      return partial_floats(rows, one.db ? 1 : 0, one.up.out, rank);
    };
    int64_t all_chunks = 0, all_sums = 0;
    for (const auto& one : ups) {
      all_chunks += chunks(one);
      all_sums += sums(one);
    }
    uint4* packed = packed_workspace(device, all_chunks);
    float* partial = partial_workspace(device, all_sums);
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
      Gradient& gradient = u.sums.gradient[i];
      gradient = ups_gradient(ups[i], xa, partial);
      gradient.tiles = static_cast<int>(ceil_div(width, kTileWide));
      partial += sums(ups[i]);
      u.begin[i + 1] += gradient.tiles;
    }
    constexpr int kBytes =
        std::max(kGradientBytes<kRank>, kProductRing<kRank> * static_cast<int>(sizeof(uint4)));
    allow_shared(ups_backward_kernel<kRank>, kBytes);
    const unsigned blocks =
        most_doc_tiles<kChunkRows>(rows, any.docs) * static_cast<unsigned>(u.begin[u.count]);
    launch_dependent(device.stream(), ups_backward_kernel<kRank>, blocks, kGradientThreads, kBytes,
                     u);
  });
  cuda_check_launch("low_rank: ups, backward");
  run_sum_ups(device, any.docs, u.sums);
}

void low_rank_down_backward_mma(CudaDevice& device, Tensor<const bf16> dxa, Tensor<const bf16> x,
                                const LowRankDown<const float>& down, Tensor<bf16> dx,
                                const LowRankDown<bf16>& da) {
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
  if (da) run_gradient(device, rows, down_gradient(device, dxa, x, down, da));
}

}  // namespace fairway
