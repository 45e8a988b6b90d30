#include "fairway/quant/quantize.h"

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
      GptqNotes notes;
      try {
        stored.matrix = gptq(device, t, h, options, &notes);
      } catch (const Error& e) {
        fail("{}: {}", name, e.what());
      }
      if (note) note(name, notes);
    } else {
      stored.half.reserve(static_cast<size_t>(t.size()));
      for (float x : t) {
        require(std::abs(x) < 65520.0f, "{}: holds {}, which float16 cannot", name, x);
        stored.half.push_back(float_to_fp16(x));
      }
    }
    model.tensors.push_back(std::move(stored));
  });
  return model;
}

}  // namespace fairway
