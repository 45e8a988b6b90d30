#include "fairway/ops/leaky_sq_epilogues_sm90.cuh"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

void require_widths(int64_t width, int64_t hidden_width) {
  require(width > 0 && hidden_width > 0 && widths_fit(width, hidden_width),
          "an MLP's widths must be multiples of 64");
}

}  // namespace

size_t leaky_sq_sign_bytes(int64_t rows, int64_t hidden_width) {
  // Whole tiles of all of a cluster's blocks.
  constexpr int kRows = sm90::kCluster * sm90::kTileRows;
  constexpr int kColumns = sm90::WideConfig<>::kTileColumns;
  return size_t{kRows * kColumns / 8} * static_cast<size_t>(sm90::wide_ceil_div(rows, kRows)) *
         static_cast<size_t>(sm90::wide_ceil_div(hidden_width, kColumns));
}

void leaky_sq_up(cudaStream_t stream, const bf16* n, const bf16* wup, int64_t rows, int64_t width,
                 int64_t hidden_width, bf16* hidden, void* signs) {
  if (rows == 0) return;
  require_widths(width, hidden_width);
  const int m = static_cast<int>(rows), f = static_cast<int>(hidden_width);
  auto* bits = static_cast<uint4*>(signs);
  if (signs != nullptr)
    sm90::wide_launch<LeakySqEpilogue<true>>(stream, n, wup, rows, hidden_width, width,
                                             {hidden, m, f, bits});
  else
    sm90::wide_launch<LeakySqEpilogue<false>>(stream, n, wup, rows, hidden_width, width,
                                              {hidden, m, f, nullptr});
}

int64_t leaky_sq_dot_tiles(int64_t hidden_width) {
  return sm90::wide_ceil_div(hidden_width, sm90::WideConfig<>::kTileColumns);
}

void leaky_sq_down_backward(cudaStream_t stream, const bf16* dm, const bf16* wdown_transposed,
                            const bf16* hidden, const void* signs, int64_t rows, int64_t width,
                            int64_t hidden_width, bf16* dz, float* half_dots) {
  if (rows == 0) return;
  require_widths(width, hidden_width);
  sm90::wide_launch<LeakySqBackwardEpilogue>(
      stream, dm, wdown_transposed, rows, hidden_width, width,
      {hidden, dz, static_cast<int>(rows), static_cast<int>(hidden_width),
       static_cast<const uint4*>(signs), half_dots});
}

}  // namespace fairway::cuda
