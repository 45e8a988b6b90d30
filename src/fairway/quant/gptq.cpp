#include "fairway/quant/gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fairway/base/fp16.h"
#include "fairway/device/cpu_matmul.h"
#include "fairway/quant/cholesky.h"

namespace fairway {

namespace {

constexpr int64_t kRowTile = 32;

// Columns in the order they are quantized, and the factor that spreads a column's error over later
// ones.
struct Factor {
  std::vector<int64_t> order;  // [cols]
  std::vector<float> u;        // [cols, cols] upper triangular, in that order
};

Factor factorise(CpuDevice& device, Tensor<const float> h, double damping,
                 const std::vector<char>& dead, GptqNotes& notes) {
  const int64_t n = h.extent(0);
  std::vector<double> diagonal(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j)
    diagonal[static_cast<size_t>(j)] = dead[static_cast<size_t>(j)] ? 1.0 : double{h[j * n + j]};
  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(n);

  Factor factor;
  factor.order.resize(static_cast<size_t>(n));
  std::iota(factor.order.begin(), factor.order.end(), int64_t{0});
  std::stable_sort(factor.order.begin(), factor.order.end(), [&](int64_t a, int64_t b) {
    return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
  });

  std::vector<double> permuted(static_cast<size_t>(n * n)), u;
  // Damping by the mean of the diagonal makes H definite within three or so steps; 1e30 bounds the
  // loop.
  for (notes.damping = std::max(damping, 1e-12); notes.damping < 1e30; notes.damping *= 10) {
#pragma omp parallel for num_threads(device.threads()) schedule(static)
    for (int64_t i = 0; i < n; ++i) {
      const int64_t from = factor.order[static_cast<size_t>(i)];
      for (int64_t j = 0; j < n; ++j)
        permuted[static_cast<size_t>(i * n + j)] =
            double{h[from * n + factor.order[static_cast<size_t>(j)]]};
      permuted[static_cast<size_t>(i * n + i)] =
          diagonal[static_cast<size_t>(from)] + notes.damping * mean;
    }
    if (inverse_cholesky_upper(device, n, permuted, u)) {
      factor.u.assign(u.begin(), u.end());
      return factor;
    }
  }
  fail("GPTQ: the Hessian has no positive definite part (mean of its diagonal: {})", mean);
}

// s = k·std(row)/c_max as binary16, never 0 and never infinite.
uint16_t row_scale(const float* row, int64_t cols, double clip_sigmas, int c_max) {
  double mean = 0, square = 0;
  for (int64_t j = 0; j < cols; ++j) mean += double{row[j]};
  mean /= static_cast<double>(cols);
  for (int64_t j = 0; j < cols; ++j) square += (double{row[j]} - mean) * (double{row[j]} - mean);
  const double deviation = cols > 1 ? std::sqrt(square / static_cast<double>(cols - 1)) : 0.0;
  const auto scale = static_cast<float>(std::max(clip_sigmas * deviation / c_max, 1e-10));
  return std::clamp<uint16_t>(float_to_fp16(scale), 0x0001, 0x7BFF);
}

}  // namespace

QuantizedMatrix gptq(CpuDevice& device, Tensor<const float> w, Tensor<const float> h,
                     const GptqOptions& options, GptqNotes* notes_out) {
  const int64_t rows = w.extent(0), cols = w.extent(1);
  check(w.shape.rank == 2 && h.shape.rank == 2 && h.extent(0) == cols && h.extent(1) == cols,
        "gptq: shapes");
  const auto finite = [](float x) { return std::isfinite(x); };
  require(std::all_of(w.begin(), w.end(), finite), "GPTQ: the matrix has a non-finite weight");
  require(std::all_of(h.begin(), h.end(), finite), "GPTQ: the Hessian is not finite");

  QuantizedMatrix q;
  q.rows = rows, q.cols = cols, q.bits = options.bits;
  q.codes.resize(static_cast<size_t>(rows * cols));
  q.scales.resize(static_cast<size_t>(rows));

  GptqNotes notes;
  std::vector<char> dead(static_cast<size_t>(cols));
  for (int64_t j = 0; j < cols; ++j) {
    dead[static_cast<size_t>(j)] = h[j * cols + j] == 0.0f;
    notes.dead_columns += dead[static_cast<size_t>(j)];
  }
  const Factor factor = factorise(device, h, options.damping, dead, notes);
  const float* u = factor.u.data();
  const auto c_max = static_cast<float>(q.c_max());
  const int64_t block = options.block, tiles = (rows + kRowTile - 1) / kRowTile;

  // Rows do not interact: each tile of them goes through all columns on its own.
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 1)
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t r0 = tile * kRowTile, height = std::min(kRowTile, rows - r0);
    std::vector<float> work(static_cast<size_t>(height * cols));
    std::vector<float> minus_error(static_cast<size_t>(height * block));
    float scale[kRowTile];
    for (int64_t r = 0; r < height; ++r) {
      const float* row = w.data + (r0 + r) * cols;
      q.scales[static_cast<size_t>(r0 + r)] = row_scale(row, cols, options.clip_sigmas, q.c_max());
      scale[r] = fp16_to_float(q.scales[static_cast<size_t>(r0 + r)]);
      for (int64_t j = 0; j < cols; ++j) {
        const auto from = static_cast<size_t>(factor.order[static_cast<size_t>(j)]);
        work[static_cast<size_t>(r * cols + j)] = dead[from] ? 0.0f : row[from];
      }
    }
    for (int64_t j0 = 0; j0 < cols; j0 += block) {
      const int64_t j1 = std::min(j0 + block, cols), width = j1 - j0;
      for (int64_t r = 0; r < height; ++r) {
        float* row = work.data() + r * cols;
        float* error = minus_error.data() + r * width;
        int8_t* codes = q.codes.data() + (r0 + r) * cols;
        for (int64_t j = j0; j < j1; ++j) {
          // nearbyint in the default rounding mode: half to even.
          const float code = std::clamp(std::nearbyint(row[j] / scale[r]), -c_max, c_max);
          codes[factor.order[static_cast<size_t>(j)]] = static_cast<int8_t>(code);
          const float e = (row[j] - code * scale[r]) / u[j * cols + j];
          error[j - j0] = -e;
          const float* spread = u + j * cols;
          for (int64_t l = j + 1; l < j1; ++l) row[l] -= e * spread[l];
        }
      }
      if (j1 < cols)
        matmul_tile(device, height, cols - j1, width, mat(minus_error.data(), width),
                    mat(u + j0 * cols + j1, cols), work.data() + j1, cols, /*accumulate=*/true);
    }
  }
  if (notes_out) *notes_out = notes;
  return q;
}

}  // namespace fairway
