#include "fairway/ops/linear_sm90.cuh"
#include "fairway/sm90/epilogues.cuh"
#include "fairway/sm90/gemm_wide_launch.cuh"

namespace fairway::cuda {
namespace {

using sm90::AddEpilogue;
using sm90::Major;
using sm90::Split;
using sm90::StoreEpilogue;
using sm90::WideConfig;
using sm90::WideMatrices;
using sm90::WideSchedule;

void require_widths(int64_t n, int64_t k) {
  require(n > 0 && k > 0 && n % 64 == 0 && k % 64 == 0,
          "a matrix product's widths must be multiples of 64");
}

// c [m, n] = row_scale · a b, or input + column_scale · a b with `input`. b is [n, k] for a forward
// product (contiguous along K), [k, n] for a backward one.
template <Major kMajorB>
void product(cudaStream_t stream, const bf16* a, const bf16* b, const bf16* input,
             const float* row_scale, const float* column_scale, int64_t m, int64_t n, int64_t k,
             bf16* c) {
  using Config = WideConfig<Major::kK, kMajorB>;
  if (m == 0) return;
  require_widths(n, k);
  const auto matrices = sm90::wide_matrices<Config>(a, b, input, m, n, k, c);
  const int rows = static_cast<int>(m), columns = static_cast<int>(n);
  if (input == nullptr)
    sm90::wide_product<Config, StoreEpilogue<Config>>(stream, matrices, k, {row_scale, rows});
  else
    sm90::wide_product<Config, AddEpilogue<Config>>(stream, matrices, k, {column_scale, columns});
}

}  // namespace

void linear(cudaStream_t stream, const bf16* x, const bf16* w, const float* row_scale, int64_t rows,
            int64_t in, int64_t out, bf16* y) {
  product<Major::kK>(stream, x, w, nullptr, row_scale, nullptr, rows, out, in, y);
}

void linear_add(cudaStream_t stream, const bf16* x, const bf16* w, const bf16* residual,
                const float* column_scale, int64_t rows, int64_t in, int64_t out, bf16* y) {
  product<Major::kK>(stream, x, w, residual, nullptr, column_scale, rows, out, in, y);
}

void linear_backward_input(cudaStream_t stream, const bf16* dy, const bf16* w, int64_t rows,
                           int64_t in, int64_t out, bool accumulate, bf16* dx) {
  product<Major::kMN>(stream, dy, w, accumulate ? dx : nullptr, nullptr, nullptr, rows, in, out,
                      dx);
}

void linear_three(cudaStream_t stream, const bf16* x, const bf16* const w[3],
                  const float* row_scale, int64_t rows, int64_t in, const int64_t out[3],
                  bf16* const y[3]) {
  using Config = WideConfig<Major::kK, Major::kK, 3, Split::kColumns>;
  if (rows == 0) return;
  WideMatrices<3> matrices{};
  matrices.rows = static_cast<int>(rows);
  int tiles = 0, begin[3];
  for (int i = 0; i < 3; ++i) {
    require_widths(out[i], in);
    matrices.a[i] = sm90::tensor_map(x, rows, in, in);
    matrices.b[i] = sm90::tensor_map(w[i], out[i], in, in);
    matrices.c[i] = sm90::tensor_map(y[i], rows, out[i], out[i], sm90::kPieceRows);
    matrices.to[i] = y[i];
    matrices.columns[i] = static_cast<int>(out[i]);
    begin[i] = tiles;
    tiles += sm90::wide_ceil_div(out[i], Config::kTileColumns);
  }
  WideSchedule schedule =
      sm90::wide_schedule<Config>(rows, tiles, static_cast<int>(in / sm90::kBlockK));
  for (int i = 0; i < 3; ++i) schedule.segment_begin[i] = begin[i];
  sm90::wide_launch<Config, StoreEpilogue<Config>>(stream, matrices, schedule,
                                                   {row_scale, static_cast<int>(rows)});
}

void linear_three_backward_input(cudaStream_t stream, const bf16* const dy[3],
                                 const bf16* const w[3], int64_t rows, int64_t in,
                                 const int64_t out[3], bool accumulate, bf16* dx) {
  using Config = WideConfig<Major::kK, Major::kMN, 3, Split::kK>;
  if (rows == 0) return;
  WideMatrices<3> matrices{};
  matrices.rows = static_cast<int>(rows);
  int blocks = 0, begin[3];
  for (int i = 0; i < 3; ++i) {
    require_widths(in, out[i]);
    matrices.a[i] = sm90::tensor_map(dy[i], rows, out[i], out[i]);
    matrices.b[i] = sm90::tensor_map(w[i], out[i], in, in);
    begin[i] = blocks;
    blocks += static_cast<int>(out[i] / sm90::kBlockK);
  }
  matrices.c[0] = sm90::tensor_map(dx, rows, in, in, sm90::kPieceRows);
  matrices.to[0] = dx;
  matrices.input = dx;
  matrices.columns[0] = static_cast<int>(in);
  WideSchedule schedule =
      sm90::wide_schedule<Config>(rows, sm90::wide_ceil_div(in, Config::kTileColumns), blocks);
  for (int i = 0; i < 3; ++i) schedule.segment_begin[i] = begin[i];
  if (accumulate)
    sm90::wide_launch<Config, AddEpilogue<Config>>(stream, matrices, schedule,
                                                   {nullptr, static_cast<int>(in)});
  else
    sm90::wide_launch<Config, StoreEpilogue<Config>>(stream, matrices, schedule,
                                                     {nullptr, static_cast<int>(rows)});
}

}  // namespace fairway::cuda
