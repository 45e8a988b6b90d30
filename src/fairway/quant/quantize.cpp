#include "fairway/quant/quantize.h"

#include <algorithm>
#include <cmath>

#include "fairway/base/fp16.h"
#include "fairway/model/weights.h"

namespace fairway {

QuantizedModel quantize_model(
    CpuDevice& device, const ModelConfig& config, const float* flat, const Hessians& hessians,
    const QuantConfig& quant,
    const std::function<void(const std::string&, const GptqNotes&)>& note) {
  quant.validate();
  QuantizedModel model;
  model.config = config;
  std::vector<GptqJob> jobs;
  std::vector<size_t> at;  // jobs' places in the model
  // Matrices that read the same input share its Hessian, and the factor with it.
  std::vector<Tensor<const float>> inputs;
  std::vector<std::string> names;  // of the first matrix of each
  std::vector<size_t> input_of;
  for_each_named(weights_view(config, flat), [&](const std::string& name, Tensor<const float> t) {
    StoredTensor stored;
    stored.name = name;
    stored.shape = t.shape;
    const Tensor<const float> h = hessians.of(name);
    if (h && t.size() > quant.keep_float_elements) {
      const bool embedding = name == "tok_emb.weight" || name == "lm_head.weight";
      GptqOptions options;
      options.bits = embedding ? quant.embed_bits : quant.bits;
      options.clip_sigmas = embedding ? quant.embed_clip_sigmas : quant.clip_sigmas;
      options.damping = quant.damping;
      options.block = quant.block;
      const auto known = std::find_if(inputs.begin(), inputs.end(),
                                      [&](const auto& input) { return input.data == h.data; });
      input_of.push_back(static_cast<size_t>(known - inputs.begin()));
      if (known == inputs.end()) {
        inputs.push_back(h);
        names.push_back(name);
      }
      jobs.push_back({name, t, nullptr, options});
      at.push_back(model.tensors.size());
    } else {
      stored.half.reserve(static_cast<size_t>(t.size()));
      for (float x : t) {
        require(std::abs(x) < 65520.0f, "{}: holds {}, which float16 cannot", name, x);
        stored.half.push_back(float_to_fp16(x));
      }
    }
    model.tensors.push_back(std::move(stored));
  });
  const std::vector<GptqFactor> factors = gptq_factors(device, inputs, names, quant.damping);
  for (size_t i = 0; i < jobs.size(); ++i) jobs[i].factor = &factors[input_of[i]];
  std::vector<QuantizedMatrix> matrices = gptq(device, jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    model.tensors[at[i]].matrix = std::move(matrices[i]);
    if (note) note(jobs[i].name, jobs[i].factor->notes);
  }
  return model;
}

}  // namespace fairway
