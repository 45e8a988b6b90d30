// A model of seconds, with loops, lanes and grouped heads.
#pragma once

#include <vector>

#include "fairway/base/rng.h"
#include "fairway/model/config.h"
#include "fairway/model/weights.h"

namespace fairway::testing {

// Banks of 8, 8, 4 and 4 matrices, of 1024, 512, 4096 and 4096 elements.
inline ModelConfig small_model(int vocab_size) {
  ModelConfig model;
  model.vocab_size = vocab_size;
  model.num_layers = 4;
  model.model_dim = 32;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.rope_dims = 4;
  model.max_doc_len = 32;
  model.xsa_last_n = 4;
  model.loop_start = 1;
  model.loop_end = 2;
  model.parallel_start_layer = 3;
  return model;
}

// All parameters of a model, normally distributed: those that start at zero too.
inline std::vector<double> random_params(const ModelConfig& model) {
  std::vector<double> params(static_cast<size_t>(flat_size(model)));
  const Philox rng(7, 0);
  for (size_t i = 0; i < params.size(); ++i) params[i] = rng.normal(i);
  return params;
}

}  // namespace fairway::testing
