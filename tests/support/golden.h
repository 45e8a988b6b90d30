// The golden tensors (tests/golden): reading them, and comparing with them.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fairway/io/safetensors.h"
#include "fairway/model/weights.h"

namespace fairway::testing {

class Golden {
 public:
  Golden() : file_(FAIRWAY_TEST_DATA "/golden/a.safetensors") {
    const auto h = nlohmann::json::parse(file_.metadata().at("hparams"));
    config.vocab_size = h["vocab_size"];
    config.num_layers = h["num_layers"];
    config.model_dim = h["model_dim"];
    config.num_heads = h["num_heads"];
    config.num_kv_heads = h["num_kv_heads"];
    config.mlp_mult = h["mlp_mult"];
    config.rope_dims = h["rope_dims"];
    config.rope_base = h["rope_base"];
    config.max_doc_len = h["train_seq_len"];
    config.qk_gain_init = h["qk_gain_init"];
    config.logit_softcap = h["logit_softcap"];
    config.xsa_last_n = h["xsa_last_n"];
    config.num_loops = h["num_loops"];
    config.loop_start = h["loop_start"];
    config.loop_end = h["loop_end"];
    config.parallel_start_layer = h["parallel_start_layer"];
  }

  const SafetensorsFile& file() const { return file_; }
  std::vector<float> floats(const std::string& name) const { return file_.read<float>(name); }
  std::vector<int32_t> ints(const std::string& name) const { return file_.read<int32_t>(name); }

  // A whole set of parameters ("param.", "grad.loop.", "opt.step0.param.", …) in flat layout.
  std::vector<float> parameters(const std::string& prefix) const {
    std::vector<float> flat(static_cast<size_t>(flat_size(config)), 0.0f);
    const Weights<float> w = weights_view(config, flat.data());
    const auto into = [&](const std::string& name, Tensor<float> t) {
      const auto values = floats(prefix + name);
      check(static_cast<int64_t>(values.size()) == t.size(), "golden tensor of another size");
      std::copy(values.begin(), values.end(), t.data);
    };
    for_each(w, [&](const std::string& name, ParamGroup, Tensor<float> t) {
      if (name == "q_gain")
        for (int64_t i = 0; i < w.layers(); ++i)
          into("blocks." + std::to_string(i) + ".attn.q_gain", t.slice(i));
      else if (name == "attn_scale" || name == "mlp_scale" || name == "resid_mix")
        for (int64_t i = 0; i < w.layers(); ++i)
          into("blocks." + std::to_string(i) + "." + name, t.slice(i));
      else
        into(name, t);
    });
    return flat;
  }

  ModelConfig config;

 private:
  SafetensorsFile file_;
};

// ‖a − b‖ / ‖b‖.
template <class A, class B>
double relative_error(const A& a, const B& b, size_t n) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference) / std::sqrt(norm > 0 ? norm : 1.0);
}

}  // namespace fairway::testing
