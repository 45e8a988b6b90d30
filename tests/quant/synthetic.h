// Made-up quantized models for the tests of coder and artifact.
#pragma once

#include <algorithm>
#include <cmath>

#include "fairway/base/fp16.h"
#include "fairway/base/rng.h"
#include "fairway/model/weights.h"
#include "fairway/quant/quantized.h"

namespace fairway {

// Codes as SPEC §5 makes them of Gaussian weights whose columns have standard deviations
// exp(spread · normal).
inline QuantizedMatrix synthetic_matrix(int64_t rows, int64_t cols, int bits, double clip_sigmas,
                                        double spread, uint64_t seed) {
  QuantizedMatrix q;
  q.rows = rows, q.cols = cols, q.bits = bits;
  const Philox random(seed, 1), column(seed, 2);
  for (int64_t i = 0; i < rows; ++i) {
    std::vector<double> w(static_cast<size_t>(cols));
    double square = 0;
    for (int64_t j = 0; j < cols; ++j) {
      const auto u = static_cast<size_t>(j);
      w[u] = random.normal(static_cast<uint64_t>(i * cols + j)) *
             std::exp(spread * column.normal(static_cast<uint64_t>(j)));
      square += w[u] * w[u];
    }
    const double s = clip_sigmas * std::sqrt(square / static_cast<double>(cols)) / q.c_max();
    for (double x : w)
      q.codes.push_back(static_cast<int8_t>(
          std::clamp(std::nearbyint(x / s), -double(q.c_max()), double(q.c_max()))));
    q.scales.push_back(float_to_fp16(static_cast<float>(s * 0.05)));
  }
  return q;
}

inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 48, c.num_layers = 3, c.model_dim = 16, c.num_heads = 2, c.num_kv_heads = 1;
  c.mlp_mult = 2, c.rope_dims = 4, c.xsa_last_n = 3, c.num_loops = 1, c.loop_start = 1;
  c.loop_end = 1, c.parallel_start_layer = 2, c.max_doc_len = 32;
  return c;
}

// Matrices of more than `keep` elements quantized, the rest float16.
inline QuantizedModel synthetic_model(const ModelConfig& config, int64_t keep, uint64_t seed) {
  QuantizedModel model;
  model.config = config;
  model.tokenizer_hash = 0x0123456789abcdef;
  std::vector<float> flat(static_cast<size_t>(flat_size(config)));
  for_each_named(weights_view<const float>(config, flat.data()),
                 [&](const std::string& name, Tensor<const float> t) {
                   StoredTensor stored;
                   stored.name = name;
                   stored.shape = t.shape;
                   const uint64_t key = seed + model.tensors.size();
                   if (t.shape.rank == 2 && t.size() > keep) {
                     const bool embedding = name == "tok_emb.weight";
                     stored.matrix = synthetic_matrix(t.extent(0), t.extent(1), embedding ? 8 : 6,
                                                      embedding ? 20 : 12.85, 0.2, key);
                   } else {
                     const Philox random(key, 3);
                     for (int64_t i = 0; i < t.size(); ++i)
                       stored.half.push_back(float_to_fp16(
                           static_cast<float>(1 + 0.3 * random.normal(static_cast<uint64_t>(i)))));
                   }
                   model.tensors.push_back(std::move(stored));
                 });
  return model;
}

}  // namespace fairway
