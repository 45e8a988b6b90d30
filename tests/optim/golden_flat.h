// The model of golden/a.safetensors and its parameter-shaped tensors as flat buffers.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "fairway/io/safetensors.h"
#include "fairway/model/weights.h"

namespace fairway {

inline ModelConfig golden_model() {
  ModelConfig c;
  c.vocab_size = 96;
  c.num_layers = 5;
  c.model_dim = 64;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.rope_dims = 8;
  c.max_doc_len = 32;
  c.qk_gain_init = 1.5;
  c.xsa_last_n = 5;
  c.loop_start = 1;
  c.loop_end = 2;
  c.parallel_start_layer = 3;
  return c;
}

// The flat buffer whose tensors are "{prefix}qo_bank", "{prefix}blocks.0.attn_scale" and so on.
inline std::vector<float> golden_flat(const SafetensorsFile& golden, const std::string& prefix) {
  const ModelConfig config = golden_model();
  std::vector<float> flat(static_cast<size_t>(flat_size(config)));
  const auto read = [&](const std::string& name, Tensor<float> t) {
    const auto values = golden.read<float>(prefix + name);
    check(static_cast<int64_t>(values.size()) == t.size(), "golden_flat: another size");
    std::copy(values.begin(), values.end(), t.data);
  };
  for_each(weights_view(config, flat.data()), [&](const std::string& name, ParamGroup,
                                                  Tensor<float> t) {
    const bool stacked =
        name == "q_gain" || name == "attn_scale" || name == "mlp_scale" || name == "resid_mix";
    if (!stacked) return read(name, t);
    for (int64_t i = 0; i < config.num_layers; ++i)
      read("blocks." + std::to_string(i) + (name == "q_gain" ? ".attn." : ".") + name, t.slice(i));
  });
  return flat;
}

}  // namespace fairway
