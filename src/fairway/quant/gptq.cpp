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

bool all_finite(Tensor<const float> t) {
  return std::all_of(t.begin(), t.end(), [](float x) { return std::isfinite(x); });
}

GptqFactor factorise(CpuDevice& device, Tensor<const float> h, double damping) {
  const int64_t n = h.extent(0);
  GptqFactor factor;
  GptqNotes& notes = factor.notes;
  std::vector<double> diagonal(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    const bool dead = h[j * n + j] == 0.0f;
    factor.dead.push_back(dead);
    notes.dead_columns += dead;
    diagonal[static_cast<size_t>(j)] = dead ? 1.0 : double{h[j * n + j]};
  }
  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(n);

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

// Rows do not interact: each tile of them goes through all columns on its own.
void quantize_rows(CpuDevice& device, const GptqJob& job, int64_t r0, QuantizedMatrix& q) {
  const GptqFactor& factor = *job.factor;
  const float* u = factor.u.data();
  const int64_t cols = q.cols, block = job.options.block;
  const int64_t height = std::min(kRowTile, q.rows - r0);
  const auto c_max = static_cast<float>(q.c_max());
  std::vector<float> work(static_cast<size_t>(height * cols));
  std::vector<float> minus_error(static_cast<size_t>(height * block));
  float scale[kRowTile];
  for (int64_t r = 0; r < height; ++r) {
    const float* row = job.w.data + (r0 + r) * cols;
    uint16_t& half = q.scales[static_cast<size_t>(r0 + r)];
    half = row_scale(row, cols, job.options.clip_sigmas, q.c_max());
    scale[r] = fp16_to_float(half);
    for (int64_t j = 0; j < cols; ++j) {
      const auto from = static_cast<size_t>(factor.order[static_cast<size_t>(j)]);
      work[static_cast<size_t>(r * cols + j)] = factor.dead[from] ? 0.0f : row[from];
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

}  // namespace

std::vector<GptqFactor> gptq_factors(CpuDevice& device,
                                     std::span<const Tensor<const float>> hessians,
                                     std::span<const std::string> names, double damping) {
  // The largest first, so that no thread is left alone with one at the end.
  std::vector<size_t> order(hessians.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return hessians[a].extent(0) > hessians[b].extent(0);
  });
  std::vector<GptqFactor> factors(hessians.size());
  std::vector<std::string> errors(hessians.size());
  // One thread each; a single Hessian is divided between the threads instead.
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 1) if (hessians.size() > 1)
  for (size_t at = 0; at < order.size(); ++at) {
    const size_t i = order[at];
    const Tensor<const float>& h = hessians[i];
    try {
      check(h.shape.rank == 2 && h.extent(0) == h.extent(1), "gptq: a Hessian is square");
      require(all_finite(h), "GPTQ: the Hessian is not finite");
      factors[i] = factorise(device, h, damping);
    } catch (const std::exception& e) {  // must not leave the parallel region
      errors[i] = e.what();
    }
  }
  for (size_t i = 0; i < errors.size(); ++i)
    require(errors[i].empty(), "{}: {}", names[i], errors[i]);
  return factors;
}

std::vector<QuantizedMatrix> gptq(CpuDevice& device, std::span<const GptqJob> jobs) {
  struct Tile {
    size_t job;
    int64_t row;
  };
  std::vector<Tile> tiles;
  std::vector<QuantizedMatrix> results(jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    const GptqJob& job = jobs[i];
    const int64_t rows = job.w.extent(0), cols = job.w.extent(1);
    check(job.w.shape.rank == 2 && std::ssize(job.factor->order) == cols, "gptq: shapes");
    require(all_finite(job.w), "{}: GPTQ: the matrix has a non-finite weight", job.name);
    QuantizedMatrix& q = results[i];
    q.rows = rows, q.cols = cols, q.bits = job.options.bits;
    q.codes.resize(static_cast<size_t>(rows * cols));
    q.scales.resize(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; row += kRowTile) tiles.push_back({i, row});
  }
  // Tiles of long rows first: they take longest.
  std::stable_sort(tiles.begin(), tiles.end(), [&](const Tile& a, const Tile& b) {
    return results[a.job].cols > results[b.job].cols;
  });
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic, 1)
  for (size_t i = 0; i < tiles.size(); ++i)
    quantize_rows(device, jobs[tiles[i].job], tiles[i].row, results[tiles[i].job]);
  return results;
}

QuantizedMatrix gptq(CpuDevice& device, Tensor<const float> w, Tensor<const float> h,
                     const GptqOptions& options, GptqNotes* notes) {
  const std::string name = "matrix";
  const std::vector<GptqFactor> factors =
      gptq_factors(device, std::span(&h, 1), std::span(&name, 1), options.damping);
  if (notes) *notes = factors[0].notes;
  const GptqJob job{name, w, &factors[0], options};
  return std::move(gptq(device, std::span(&job, 1))[0]);
}

}  // namespace fairway
