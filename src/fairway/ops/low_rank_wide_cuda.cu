// The second half of adapters that are as wide as a vocabulary: launches of the kernels.
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/low_rank_wide_backward.cuh"
#include "fairway/ops/low_rank_wide_cuda.h"
#include "fairway/ops/low_rank_wide_up.cuh"

namespace fairway {

using namespace cuda::low_rank_wide;

bool low_rank_fits_wide(const LowRankUp<const float>& up, const bf16* db) {
  constexpr int64_t kFewestColumns = 2048;
  return up.out >= kFewestColumns && up.rank > 0 && up.rank % kGroup == 0 && up.rank <= kMostRank &&
         up.stride % 4 == 0 && aligned16(up.b, db);
}

void low_rank_up_wide(CudaDevice& device, Tensor<const bf16> xa, const LowRankUp<const float>& up,
                      Tensor<bf16> y) {
  const Up u{.up = up,
             .xa = xa.data + up.place * up.rank,
             .xa_pitch = xa.extent(1),
             .y = y.data,
             .slices = static_cast<int>(ceil_div(up.out, kUpSlice))};
  const unsigned blocks =
      most_doc_tiles<kUpTileRows>(y.extent(0), up.docs) * static_cast<unsigned>(u.slices);
  cuda::low_rank::with_kernel_rank<kMostRank>(up.rank, [&](auto rank) {
    launch_dependent(device.stream(), up_kernel<decltype(rank)::value>, blocks, kUpThreads, 0, u);
  });
  cuda_check_launch("low_rank: wide up");
}

void low_rank_up_backward_wide(CudaDevice& device, const LowRankUpBackward<bf16>& one,
                               Tensor<const bf16> xa, Tensor<bf16> dxa) {
  const auto& [up, dy, db] = one;
  const int64_t rows = dy.extent(0), column = up.place * up.rank;
  const int64_t slices = ceil_div(up.out, kSlice);
  const auto bytes = static_cast<size_t>(slices * rows * up.rank) * sizeof(float);
  const Backward u{
      .up = up,
      .dy = dy.data,
      .xa = xa.data + column,
      .xa_pitch = xa.extent(1),
      .rows = rows,
      .partial = reinterpret_cast<float*>(device.workspace(Workspace::adapters, bytes)),
      .db = db};
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(up.docs));
  const auto sum_blocks = static_cast<unsigned>(ceil_div(rows * (up.rank / 4), kSumThreads));
  cuda::low_rank::with_kernel_rank<kMostRank>(up.rank, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    launch_dependent(device.stream(), backward_kernel<kRank>, grid, kBackwardThreads<kRank>, 0, u);
    cuda_check_launch("low_rank: wide up, backward");
    if (rows == 0) return;
    launch_dependent(device.stream(), sum_slices_kernel<kRank>, sum_blocks, kSumThreads, 0, u,
                     static_cast<int>(slices), dxa.data + column, dxa.extent(1));
    cuda_check_launch("low_rank: wide up, sum of slices");
  });
}

}  // namespace fairway
