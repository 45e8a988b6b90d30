// SPEC §3 "Init". Number i of a tensor is a pure function of (seed, tensor, i).
#include <cmath>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/cpu_device.h"
#include "fairway/device/cpu_matmul.h"
#include "fairway/model/model.h"

namespace fairway {

namespace {

void fill_normal(CpuDevice& device, uint64_t seed, uint64_t stream, double std, Tensor<float> t) {
  const Philox rng(seed, stream);
#pragma omp parallel for num_threads(device.threads())
  for (int64_t i = 0; i < t.size(); ++i)
    t[i] = static_cast<float>(std * rng.normal(static_cast<uint64_t>(i)));
}

// Replaces a matrix of independent normals by its orthogonal polar factor, which is uniformly
// distributed over the matrices with orthonormal rows (or columns, for a tall one): the
// distribution of the QR construction. Newton–Schulz, X ← X(3I − XᵀX)/2, in float32: every singular
// value in (0, √3) converges to 1; products on the smaller side.
void orthogonalize(CpuDevice& device, Tensor<float> w) {
  const int64_t rows = w.extent(0), cols = w.extent(1), small = std::min(rows, cols);
  const bool tall = rows >= cols;
  // The largest singular value of a Gaussian matrix is close to √rows + √cols.
  const float start = 1.0f / static_cast<float>(std::sqrt(static_cast<double>(rows)) +
                                                std::sqrt(static_cast<double>(cols)));
  for (float& x : w) x *= start;
  std::vector<float> gram(static_cast<size_t>(small * small)), next(static_cast<size_t>(w.size()));
  constexpr int kMost = 100;
  for (int iteration = 0; iteration < kMost; ++iteration) {
    // gram = XᵀX (tall) or XXᵀ (wide); its distance from I says when to stop.
    if (tall)
      matmul<float>(device, small, small, rows, mat_t<float>(w.data, cols),
                    mat<float>(w.data, cols), gram.data(), small, false, true);
    else
      matmul<float>(device, small, small, cols, mat<float>(w.data, cols),
                    mat_t<float>(w.data, cols), gram.data(), small, false, true);
    float distance = 0;
    for (int64_t i = 0; i < small; ++i)
      for (int64_t j = 0; j < small; ++j) {
        float& g = gram[static_cast<size_t>(i * small + j)];
        distance = std::max(distance, std::fabs(g - (i == j ? 1.0f : 0.0f)));
        g = (i == j ? 1.5f : 0.0f) - 0.5f * g;
      }
    if (distance < 2e-6f) break;
    if (tall)
      matmul<float>(device, rows, cols, cols, mat<float>(w.data, cols),
                    mat<float>(gram.data(), small), next.data(), cols, false, true);
    else
      matmul<float>(device, rows, cols, rows, mat<float>(gram.data(), small),
                    mat<float>(w.data, cols), next.data(), cols, false, true);
    std::copy(next.begin(), next.end(), w.data);
  }
}

}  // namespace

void init_weights(CpuDevice& device, const ModelConfig& config, uint64_t seed, float* flat) {
  std::fill(flat, flat + flat_size(config), 0.0f);
  const Weights<float> w = weights_view(config, flat);
  uint64_t stream = 0;
  fill_normal(device, seed, stream++, 0.005, w.tok_emb);
  if (w.lm_head) fill_normal(device, seed, stream++, 0.005, w.lm_head);
  for (int64_t i = 0; i < w.layers(); ++i)
    for (Tensor<float> matrix : {w.wq(i), w.wk(i), w.wv(i), w.wup(i)}) {
      fill_normal(device, seed, stream++, 1.0, matrix);
      orthogonalize(device, matrix);
    }
  // Wo, Wdown and skip_gates start at zero.
  const auto fill = [](Tensor<float> t, float value) { std::fill(t.begin(), t.end(), value); };
  fill(w.q_gain, static_cast<float>(config.qk_gain_init));
  fill(w.attn_scale, 1.0f);
  fill(w.mlp_scale, 1.0f);
  fill(w.skip_weights, 1.0f);
  fill(w.parallel_post_lambdas, 1.0f);
  fill(w.parallel_resid_lambdas, 1.1f);
  for (int64_t i = 0; i < w.layers(); ++i) {
    const Tensor<float> mix = w.resid_mix.slice(i);
    fill(mix.slice(0), 1.0f);
    fill(mix.slice(1), 0.0f);
  }
}

}  // namespace fairway
