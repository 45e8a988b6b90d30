#include "fairway/quant/calibrate.h"

#include <algorithm>
#include <numeric>

#include "fairway/base/rng.h"
#include "fairway/data/stream.h"
#include "fairway/device/cpu_matmul.h"
#include "fairway/device/run_types.h"
#include "fairway/model/weights.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

int64_t Hessians::size(const ModelConfig& config) {
  const int64_t D = config.model_dim, F = config.mlp_dim();
  return config.num_layers * (3 * D * D + F * F) + D * D;
}

Tensor<float> Hessians::layer(const ModelConfig& config, float* flat, int layer, Input input) {
  const int64_t D = config.model_dim, F = config.mlp_dim();
  static_assert(mlp_hidden == 3, "the wide one comes last in a layer");
  const int64_t n = input == mlp_hidden ? F : D;
  return {flat + layer * (3 * D * D + F * F) + input * D * D, {n, n}};
}

Tensor<float> Hessians::head(const ModelConfig& config, float* flat) {
  const int64_t D = config.model_dim;
  return {flat + size(config) - D * D, {D, D}};
}

Hessians::Hessians(const ModelConfig& config)
    : config_(config), flat_(static_cast<size_t>(size(config))) {}

Tensor<const float> Hessians::of(const std::string& name) const {
  auto* flat = const_cast<float*>(flat_.data());  // hands out a const view
  if (name == "tok_emb.weight" || name == "lm_head.weight") return head(config_, flat);
  if (!name.starts_with("blocks.")) return {};
  const int at = std::stoi(name.substr(7));
  const auto of_layer = [&](Input input) { return layer(config_, flat, at, input); };
  if (name.ends_with(".attn.c_q.weight") || name.ends_with(".attn.c_k.weight") ||
      name.ends_with(".attn.c_v.weight"))
    return of_layer(attn_in);
  if (name.ends_with(".attn.proj.weight")) return of_layer(attn_out);
  if (name.ends_with(".mlp.fc.weight")) return of_layer(mlp_in);
  if (name.ends_with(".mlp.proj.weight")) return of_layer(mlp_hidden);
  return {};
}

void Hessians::scale(float factor) {
  for (float& x : flat_) x *= factor;
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

// h += xᵀx; x [T, n], h [n, n]: the weight gradient of a linear map whose output's gradient is its
// input. On a CPU in float32 whatever the recipe's precision.
void add_gram(CpuDevice& device, Tensor<const float> x, Tensor<float> h) {
  const int64_t n = h.extent(0), rows = x.size() / n;
  matmul<float>(device, n, n, rows, mat_t(x.data, n), mat(x.data, n), h.data, n,
                /*accumulate=*/true, /*exact=*/true);
}
#if FAIRWAY_WITH_CUDA
template <class T>
void add_gram(CudaDevice& device, Tensor<const T> x, Tensor<float> h) {
  linear_backward_weight<T>(device, x, x, h);
}
#endif

// What the matrices of a visit multiply.
template <class T>
struct MatrixInputs {
  Tensor<const T> attn_in;     // [T, D] of Wq, Wk, Wv
  Tensor<const T> attn_out;    // [T, D] of Wo
  Tensor<const T> mlp_in;      // [T, D] of Wup
  Tensor<const T> mlp_hidden;  // [T, F] of Wdown
};

// Those of visit s of a finished forward pass. `hidden` [T, F]: memory for f(z) where the forward
// pass keeps z.
template <class Device, class T>
MatrixInputs<T> matrix_inputs(Device& device, const Acts<T>& acts, int s, Tensor<T> hidden) {
  const VisitActs<T>& visit = acts.visits[static_cast<size_t>(s)];
  if constexpr (std::is_same_v<T, bf16>)
    hidden = visit.hidden.z;
  else
    leaky_sq<T>(device, visit.hidden, hidden);
  return {visit.attn_in, visit.y, visit.mlp_in, hidden};
}

}  // namespace

template <class Device, class T>
struct Calibration<Device, T>::Layout {
  Tensor<int32_t> inputs, cu_seqlens;
  Acts<T> acts;
  Tensor<T> hidden;  // [T, F]; null for bf16, see matrix_inputs
  Arena rest;
};

// Every visit's activations stay, as for a backward pass: they are the inputs of its matrices, but
// for the hidden activation where z is kept.
template <class Device, class T>
typename Calibration<Device, T>::Layout Calibration<Device, T>::take(Arena& arena,
                                                                     int64_t tokens) const {
  const ModelConfig& config = net_.config;
  Layout l;
  // First: in the same place for any number of tokens.
  const FoldedWeights<T> folded = take_folded<T>(config, E4m3Mlp::off, arena);
  l.inputs = arena.take<int32_t>("inputs", {tokens});
  l.cu_seqlens = arena.take<int32_t>("cu_seqlens", {tokens / window_ + 1});
  l.acts = take_acts<T>(config, net_.route, tokens, tokens, /*for_backward=*/true, arena);
  l.acts.folded = folded;
  if constexpr (!std::is_same_v<T, bf16>)
    l.hidden = arena.take<T>("hidden", {tokens, config.mlp_dim()});
  // The head does not run.
  const auto bytes =
      static_cast<int64_t>(scratch_bytes<T>(net_, tokens, 1, /*for_backward=*/false));
  l.rest = Arena(arena.take<std::byte>("scratch", {bytes}).data, static_cast<size_t>(bytes));
  return l;
}

template <class Device, class T>
Calibration<Device, T>::Calibration(Device& device, const ModelConfig& config,
                                    const Weights<const T>& weights, int64_t tokens, int64_t window)
    : device_(device),
      net_(config, /*looped=*/true),
      weights_(weights),
      tokens_(tokens),
      window_(window) {
  sums_ = device.allocate(static_cast<size_t>(Hessians::size(config)) * sizeof(float));
  Arena dry;
  take(dry, tokens);
  memory_ = device.allocate(dry.peak());
  Arena arena(memory_.data(), memory_.bytes());
  fold_weights(device, config, weights_, take(arena, tokens).acts.folded);
}

template <class Device, class T>
void Calibration<Device, T>::add(std::span<const int32_t> inputs) {
  const int64_t tokens = std::ssize(inputs);
  check(tokens > 0 && tokens % window_ == 0 && tokens <= tokens_, "Calibration: whole windows");
  std::vector<int32_t> cu_seqlens;
  for (int64_t at = 0; at <= tokens; at += window_) cu_seqlens.push_back(static_cast<int32_t>(at));
  Arena arena(memory_.data(), memory_.bytes());
  const Layout l = take(arena, tokens);
  device_.upload(l.inputs.data, inputs.data(), inputs.size_bytes());
  device_.upload(l.cu_seqlens.data, cu_seqlens.data(), cu_seqlens.size() * sizeof(int32_t));

  Batch batch;
  batch.inputs = l.inputs;
  batch.cu_seqlens = l.cu_seqlens;
  forward<Device, T>(device_, net_, weights_, /*lora=*/nullptr, batch, l.acts, l.rest);

  const ModelConfig& config = net_.config;
  auto* sums = reinterpret_cast<float*>(sums_.data());
  for (int s = 0; s < net_.slots(); ++s) {
    const int layer = net_.route[static_cast<size_t>(s)].layer;
    const MatrixInputs<T> in = matrix_inputs<Device, T>(device_, l.acts, s, l.hidden);
    const auto add = [&](Hessians::Input input, Tensor<const T> x) {
      add_gram(device_, x, Hessians::layer(config, sums, layer, input));
    };
    add(Hessians::attn_in, in.attn_in);
    add(Hessians::attn_out, in.attn_out);
    add(Hessians::mlp_in, in.mlp_in);
    add(Hessians::mlp_hidden, in.mlp_hidden);
  }
  rms_norm<T>(device_, l.acts.final_x, config.norm_eps, 1.0, l.acts.head_rstd, l.acts.head_in);
  add_gram(device_, Tensor<const T>(l.acts.head_in), Hessians::head(config, sums));
}

template <class Device, class T>
Hessians Calibration<Device, T>::sums() const {
  Hessians hessians(net_.config);
  device_.download(hessians.flat().data(), sums_.data(), hessians.flat().size_bytes());
  return hessians;
}

template <class Device, class T>
Hessians calibrate(Device& device, const ModelConfig& config, const Weights<const T>& weights,
                   const TokenStream& text, const QuantConfig& quant, ProcessGroup& group,
                   const std::function<void(int64_t, int64_t)>& progress) {
  quant.validate();
  const int64_t window = quant.calibration_window;
  std::vector<int64_t> windows;
  for (const auto& batch : calibration_windows(text.size(), quant))
    windows.insert(windows.end(), batch.begin(), batch.end());
  const int64_t per_batch = std::ssize(windows) / quant.calibration_batches;
  const int64_t together = std::clamp<int64_t>(kPassTokens<Device, T> / window, 1, per_batch);
  const int64_t first = std::ssize(windows) * group.rank() / group.size();
  const int64_t last = std::ssize(windows) * (group.rank() + 1) / group.size();
  Calibration<Device, T> calibration(device, config, weights, together * window, window);
  std::vector<int32_t> inputs;
  for (int64_t begin = first; begin < last; begin += together) {
    const int64_t end = std::min(begin + together, last);
    inputs.resize(static_cast<size_t>((end - begin) * window));
    for (int64_t i = begin; i < end; ++i)
      text.copy(windows[static_cast<size_t>(i)], window, inputs.data() + (i - begin) * window);
    calibration.add(inputs);
    device.synchronize();  // so that `progress` speaks of work done, not of work issued
    if (progress) progress(end - first, last - first);
  }
  Hessians hessians = calibration.sums();
  group.sum(hessians.flat());
  hessians.scale(1.0f / static_cast<float>(quant.calibration_batches));
  return hessians;
}

#define FAIRWAY_INSTANTIATE(Device, T)                                               \
  template class Calibration<Device, T>;                                             \
  template Hessians calibrate(Device&, const ModelConfig&, const Weights<const T>&,  \
                              const TokenStream&, const QuantConfig&, ProcessGroup&, \
                              const std::function<void(int64_t, int64_t)>&);
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
