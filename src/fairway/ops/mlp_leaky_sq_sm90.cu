#include "fairway/ops/leaky_sq_epilogues_sm90.cuh"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

using sm90::Major;
using sm90::WideConfig;

using UpConfig = WideConfig<Major::kK, Major::kK>;
using DownBackwardConfig = WideConfig<Major::kK, Major::kMN>;
// The signs are kept in the order of the tiles.
static_assert(UpConfig::kCluster == DownBackwardConfig::kCluster);

void require_widths(int64_t width, int64_t hidden_width) {
  require(width > 0 && hidden_width > 0 && width % 64 == 0 && hidden_width % 64 == 0,
          "an MLP's widths must be multiples of 64");
}

}  // namespace

size_t leaky_sq_sign_bytes(int64_t rows, int64_t, int64_t hidden_width) {
  // Whole tiles of all of a cluster's blocks.
  constexpr int kRows = UpConfig::kCluster * sm90::kTileRows;
  constexpr int kColumns = UpConfig::kTileColumns;
  return size_t{kRows * kColumns / 8} * static_cast<size_t>(sm90::wide_ceil_div(rows, kRows)) *
         static_cast<size_t>(sm90::wide_ceil_div(hidden_width, kColumns));
}

void leaky_sq_up(cudaStream_t stream, const bf16* n, const bf16* wup, const float* row_scale,
                 int64_t rows, int64_t width, int64_t hidden_width, bf16* hidden, void* signs) {
  if (rows == 0) return;
  require_widths(width, hidden_width);
  const auto matrices =
      sm90::wide_matrices<UpConfig>(n, wup, nullptr, rows, hidden_width, width, hidden);
  auto* bits = static_cast<uint4*>(signs);
  const int count = static_cast<int>(rows);
  if (signs != nullptr)
    sm90::wide_product<UpConfig, LeakySqEpilogue<UpConfig, true>>(stream, matrices, width,
                                                                  {row_scale, bits, count});
  else
    sm90::wide_product<UpConfig, LeakySqEpilogue<UpConfig, false>>(stream, matrices, width,
                                                                   {row_scale, bits, count});
}

void leaky_sq_down_backward(cudaStream_t stream, const bf16* dm, const bf16* wdown,
                            const bf16* hidden, const void* signs, int64_t rows, int64_t width,
                            int64_t hidden_width, bf16* dz) {
  if (rows == 0) return;
  require_widths(width, hidden_width);
  const auto matrices =
      sm90::wide_matrices<DownBackwardConfig>(dm, wdown, hidden, rows, hidden_width, width, dz);
  sm90::wide_product<DownBackwardConfig, LeakySqBackwardEpilogue<DownBackwardConfig>>(
      stream, matrices, width, {static_cast<const uint4*>(signs)});
}

}  // namespace fairway::cuda
