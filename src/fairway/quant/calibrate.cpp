#include "fairway/quant/calibrate.h"

#include <algorithm>
#include <numeric>

#include "fairway/base/rng.h"
#include "fairway/data/stream.h"
#include "fairway/device/cpu_matmul.h"
#include "fairway/model/model.h"
#include "fairway/model/weights.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

namespace {

int64_t input_width(const ModelConfig& config, Hessians::Input input) {
  return input == Hessians::mlp_hidden ? config.mlp_dim() : config.model_dim;
}

}  // namespace

Hessians::Hessians(const ModelConfig& config) : config_(config) {
  for (int layer = 0; layer < config.num_layers; ++layer)
    for (int input = 0; input < kInputs; ++input) {
      const int64_t n = input_width(config, static_cast<Input>(input));
      layers_.emplace_back(static_cast<size_t>(n * n), 0.0f);
    }
  head_.assign(static_cast<size_t>(int64_t{config.model_dim} * config.model_dim), 0.0f);
}

Tensor<float> Hessians::layer(int layer, Input input) {
  const int64_t n = input_width(config_, input);
  return {layers_[static_cast<size_t>(layer * kInputs + input)].data(), {n, n}};
}

Tensor<float> Hessians::head() {
  return {head_.data(), {config_.model_dim, config_.model_dim}};
}

Tensor<const float> Hessians::of(const std::string& name) const {
  auto& self = const_cast<Hessians&>(*this);  // hands out a const view
  if (name == "tok_emb.weight" || name == "lm_head.weight") return self.head();
  if (!name.starts_with("blocks.")) return {};
  const int at = std::stoi(name.substr(7));
  if (name.ends_with(".attn.c_q.weight") || name.ends_with(".attn.c_k.weight") ||
      name.ends_with(".attn.c_v.weight"))
    return self.layer(at, attn_in);
  if (name.ends_with(".attn.proj.weight")) return self.layer(at, attn_out);
  if (name.ends_with(".mlp.fc.weight")) return self.layer(at, mlp_in);
  if (name.ends_with(".mlp.proj.weight")) return self.layer(at, mlp_hidden);
  return {};
}

void Hessians::scale(float factor) {
  for (auto& h : layers_)
    for (float& x : h) x *= factor;
  for (float& x : head_) x *= factor;
}

std::vector<std::vector<int64_t>> calibration_windows(int64_t stream_tokens,
                                                      const QuantConfig& config) {
  const int64_t windows = stream_tokens / config.calibration_window;
  require(windows > 0,
          "the calibration text has {} tokens, fewer than one window of {}: give more text "
          "or a smaller [quant] calibration_window",
          stream_tokens, config.calibration_window);
  const int64_t per_batch = config.calibration_batch_tokens / config.calibration_window;
  const Philox random(config.seed, /*stream=*/0x63616C69);
  std::vector<int64_t> order(static_cast<size_t>(windows));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::vector<std::vector<int64_t>> batches(static_cast<size_t>(config.calibration_batches));
  uint64_t drawn = 0;
  for (auto& batch : batches)
    for (int64_t i = 0; i < per_batch; ++i, ++drawn) {
      // Fisher–Yates, one step per window; once through, it starts over on the shuffled order.
      const uint64_t at = drawn % order.size();
      std::swap(order[at], order[at + random.below(drawn, order.size() - at)]);
      batch.push_back(order[at] * config.calibration_window);
    }
  return batches;
}

namespace {

// h += xᵀx; x [T, n], h [n, n]. In float32 whatever the recipe's precision.
void add_gram(CpuDevice& device, Tensor<const float> x, Tensor<float> h) {
  const int64_t n = h.extent(0), rows = x.size() / n;
  matmul<float>(device, n, n, rows, mat_t(x.data, n), mat(x.data, n), h.data, n,
                /*accumulate=*/true, /*exact=*/true);
}

}  // namespace

void accumulate_hessians(CpuDevice& device, const ModelConfig& config, const float* flat,
                         Tensor<const int32_t> inputs, int64_t window, Hessians& hessians) {
  const int64_t rows = inputs.size();
  check(rows > 0 && rows % window == 0, "accumulate_hessians: whole windows");
  const Network net(config, /*looped=*/true);
  const Weights<const float> w = weights_view(config, flat);
  std::vector<int32_t> cu_seqlens;
  for (int64_t at = 0; at <= rows; at += window) cu_seqlens.push_back(static_cast<int32_t>(at));

  struct Buffers {
    Acts<float> acts;
    Tensor<float> hidden, final_in, final_rstd;  // [T, F], [T, D], [T]
  };
  // Every visit's activations stay, as for a backward pass: the inputs of products are among them.
  const auto take = [&](Arena& arena) {
    Buffers b;
    b.acts =
        take_acts<float>(config, net.route, rows, /*head_rows=*/1, /*for_backward=*/true, arena);
    b.hidden = arena.take<float>("hidden", {rows, config.mlp_dim()});
    b.final_in = arena.take<float>("final input", {rows, config.model_dim});
    b.final_rstd = arena.take<float>("norms", {rows});
    return b;
  };
  Arena dry;
  take(dry);
  const size_t scratch = scratch_bytes<float>(net, rows, 1, /*for_backward=*/false);
  const HostBuffer memory(dry.peak() + scratch);
  Arena arena(memory.data(), memory.bytes());
  const Buffers b = take(arena);

  Batch batch;
  batch.inputs = inputs;
  batch.cu_seqlens = {cu_seqlens.data(), {static_cast<int64_t>(cu_seqlens.size())}};
  forward<CpuDevice, float>(device, net, w, /*lora=*/nullptr, batch, b.acts, arena);

  for (int s = 0; s < net.slots(); ++s) {
    const int layer = net.route[static_cast<size_t>(s)].layer;
    const VisitActs<float>& visit = b.acts.visits[static_cast<size_t>(s)];
    leaky_sq<float>(device, visit.hidden, b.hidden);
    add_gram(device, visit.attn_in, hessians.layer(layer, Hessians::attn_in));
    add_gram(device, visit.y, hessians.layer(layer, Hessians::attn_out));
    add_gram(device, visit.mlp_in, hessians.layer(layer, Hessians::mlp_in));
    add_gram(device, b.hidden, hessians.layer(layer, Hessians::mlp_hidden));
  }
  rms_norm<float>(device, b.acts.final_x, config.norm_eps, 1.0, b.final_rstd, b.final_in);
  add_gram(device, b.final_in, hessians.head());
}

Hessians calibrate(CpuDevice& device, const ModelConfig& config, const float* flat,
                   const TokenStream& text, const QuantConfig& quant,
                   const std::function<void(int done, int of)>& progress) {
  quant.validate();
  Hessians hessians(config);
  const int64_t window = quant.calibration_window;
  // Windows that go through the model together: memory for about 4,096 tokens.
  const auto together = static_cast<size_t>(std::max<int64_t>(1, 4096 / window));
  std::vector<int32_t> inputs;
  int done = 0;
  for (const std::vector<int64_t>& batch : calibration_windows(text.size(), quant)) {
    for (size_t begin = 0; begin < batch.size(); begin += together) {
      const size_t count = std::min(together, batch.size() - begin);
      inputs.resize(count * static_cast<size_t>(window));
      for (size_t i = 0; i < count; ++i)
        text.copy(batch[begin + i], window, inputs.data() + i * static_cast<size_t>(window));
      accumulate_hessians(device, config, flat,
                          {inputs.data(), {static_cast<int64_t>(inputs.size())}}, window, hessians);
    }
    if (progress) progress(++done, quant.calibration_batches);
  }
  hessians.scale(1.0f / static_cast<float>(quant.calibration_batches));
  return hessians;
}

}  // namespace fairway
