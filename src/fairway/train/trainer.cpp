#include "fairway/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "fairway/base/check.h"
#include "fairway/data/packing.h"
#include "fairway/device/run_types.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/ops/round_to.h"

namespace fairway {

namespace {

// Tokens that come from no document, in segments of the longest length.
PackedBatch synthetic_batch(const ModelConfig& model, int64_t rows) {
  PackedBatch batch;
  for (int64_t i = 0; i <= rows; ++i) {
    const int32_t token = static_cast<int32_t>(i * 7919 % model.vocab_size);
    if (i < rows) batch.inputs.push_back(token);
    if (i > 0) batch.targets.push_back(token);
  }
  batch.cu_seqlens = make_cu_seqlens(batch.inputs, /*bos=*/-1, model.max_doc_len);
  return batch;
}

// As much of a device as laying out a Trainer needs. It holds nothing.
struct NoDevice {
  struct Buffer {
    size_t size = 0;
    static std::byte* data() { return nullptr; }
    size_t bytes() const { return size; }
  };
  static Buffer allocate(size_t bytes) { return {bytes}; }
  static void upload(void*, const void*, size_t) {}
};

}  // namespace

template <class Device, class T>
Trainer<Device, T>::Trainer(Device& device, const ModelConfig& model, const OptimConfig& optim,
                            const TrainConfig& train)
    : device_(device),
      model_(model),
      optim_(optim),
      train_(train),
      plain_(model, false),
      looped_(model, true),
      rows_(train.micro_batch_tokens()),
      accumulation_(train.micro_steps) {
  lay_out(dry_run_);
  buffer_ = device.allocate(dry_run_.peak());
  Arena arena(buffer_.data(), buffer_.bytes());
  lay_out(arena);
  host_nll_.resize(static_cast<size_t>(rows_));
  const std::vector<float> mean(static_cast<size_t>(rows_),
                                1.0f / static_cast<float>(rows_ * accumulation_));
  device_.upload(d_nll_.data, mean.data(), mean.size() * sizeof(float));
}

template <class Device, class T>
void Trainer<Device, T>::lay_out(Arena& arena) {
  const int64_t flat = flat_size(model_);
  weights_ = arena.take<float>("weights", {flat});
  gradients_ = arena.take<float>("gradients", {flat});
  if constexpr (!std::is_same_v<T, float>)
    matrices_ = arena.take<T>("matrices for products", {matrices_size(model_)});
  state_ = take_optim_state(model_, arena);
  inputs_ = arena.take<int32_t>("batch", {rows_});
  targets_ = arena.take<int32_t>("batch", {rows_});
  // Each token may start a segment, and the list is padded to a multiple of at most its own length.
  cu_seqlens_ = arena.take<int32_t>("batch", {2 * (rows_ + 1) + 64});
  nll_ = arena.take<float>("nll", {rows_});
  d_nll_ = arena.take<float>("nll", {rows_});

  const size_t scratch =
      std::max({scratch_bytes<T>(plain_, rows_, rows_, true),
                scratch_bytes<T>(looped_, rows_, rows_, true), optim_scratch_bytes(model_)});
  scratch_ = arena.take<std::byte>("scratch", {static_cast<int64_t>(scratch)});

  // Both routes use the same memory; the looped one is the longer.
  const size_t mark = arena.mark();
  if (!arena.dry()) {
    acts_plain_ = take_acts<T>(model_, plain_.route, rows_, rows_, true, arena);
    arena.release(mark);
  }
  acts_looped_ = take_acts<T>(model_, looped_.route, rows_, rows_, true, arena);
}

template <class Device, class T>
void Trainer<Device, T>::warm_up(int micro_steps) {
  if (micro_steps == 0) return;
  const PackedBatch batch = synthetic_batch(model_, rows_);
  for (int i = 0; i < micro_steps; ++i) {
    device_.zero(gradients_.data, static_cast<size_t>(gradients_.size()) * sizeof(float));
    micro_step(i % 2 == 0, batch);
    const Arena scratch(scratch_.data, static_cast<size_t>(scratch_.size()));
    optimizer_step(device_, model_, optim_, 0, 1.0, weights_.data, gradients_.data, state_,
                   scratch);
  }
  for_each_state([&](const char*, Tensor<float> t) {
    device_.zero(t.data, static_cast<size_t>(t.size()) * sizeof(float));
  });
}

template <class Device, class T>
void Trainer<Device, T>::init() {
  const size_t bytes = static_cast<size_t>(weights_.size()) * sizeof(float);
  std::vector<float> host(static_cast<size_t>(weights_.size()));
  CpuDevice cpu(train_.threads);
  init_weights(cpu, model_, train_.seed, host.data());
  device_.upload(weights_.data, host.data(), bytes);
  device_.upload(state_.ema.data, host.data(), bytes);
  round_weights();
}

template <class Device, class T>
void Trainer<Device, T>::round_weights() {
  if constexpr (!std::is_same_v<T, float>)
    round_to(device_, matrices_.size(), weights_.data, matrices_.data);
}

template <class Device, class T>
Weights<const T> Trainer<Device, T>::weights_of_products() const {
  if constexpr (std::is_same_v<T, float>)
    return weights_view<const float>(model_, weights_.data);
  else
    return weights_view<const T>(model_, matrices_.data, weights_.data);
}

// Forward and backward on one micro-batch; returns the sum of its nll.
template <class Device, class T>
double Trainer<Device, T>::micro_step(bool looped, const PackedBatch& packed) {
  check(static_cast<int64_t>(packed.inputs.size()) == rows_ &&
            static_cast<int64_t>(packed.targets.size()) == rows_ &&
            static_cast<int64_t>(packed.cu_seqlens.size()) <= cu_seqlens_.size(),
        "Trainer: a batch of another size");
  device_.upload(inputs_.data, packed.inputs.data(), packed.inputs.size() * sizeof(int32_t));
  device_.upload(targets_.data, packed.targets.data(), packed.targets.size() * sizeof(int32_t));
  device_.upload(cu_seqlens_.data, packed.cu_seqlens.data(),
                 packed.cu_seqlens.size() * sizeof(int32_t));
  const Batch batch{
      inputs_, {cu_seqlens_.data, {static_cast<int64_t>(packed.cu_seqlens.size())}}, {}, targets_};
  const Network& net = looped ? looped_ : plain_;
  const Acts<T>& acts = looped ? acts_looped_ : acts_plain_;
  const Weights<const T> w = weights_of_products();
  const auto dw = weights_view<float>(model_, gradients_.data);
  const Arena scratch(scratch_.data, static_cast<size_t>(scratch_.size()));
  forward(device_, net, w, nullptr, batch, acts, scratch);
  head_loss(device_, net, w, nullptr, batch, acts, nll_, d_nll_.data, &dw, nullptr, scratch);
  backward(device_, net, w, nullptr, batch, acts, &dw, nullptr, scratch);
  device_.download(host_nll_.data(), nll_.data, host_nll_.size() * sizeof(float));
  double sum = 0;
  for (float nll : host_nll_) sum += nll;
  return sum;
}

template <class Device, class T>
std::optional<StepResult> Trainer<Device, T>::step(const StepPlan& plan, const NextBatch& next,
                                                   const Cancelled& cancelled) {
  device_.zero(gradients_.data, static_cast<size_t>(gradients_.size()) * sizeof(float));
  StepResult result;
  double sum = 0;
  for (int i = 0; i < accumulation_; ++i) {
    if (cancelled && cancelled()) return std::nullopt;
    sum += micro_step(plan.looped, next());
  }
  result.loss = sum / static_cast<double>(rows_ * accumulation_);

  if (optim_.clip_mode == ClipMode::global) reduce_gradients();
  result.grad_norm = grad_norm(device_, gradients_.size(), gradients_.data);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) return result;
  if (optim_.clip_norm > 0)
    clip_grad(device_, gradients_.size(), gradients_.data, result.grad_norm, optim_.clip_norm);
  if (optim_.clip_mode == ClipMode::per_rank) reduce_gradients();

  const Arena scratch(scratch_.data, static_cast<size_t>(scratch_.size()));
  optimizer_step(device_, model_, optim_, plan.step, plan.lr_factor, weights_.data, gradients_.data,
                 state_, scratch);
  round_weights();
  return result;
}

template <class T>
Arena trainer_memory(const ModelConfig& model, const OptimConfig& optim, const TrainConfig& train) {
  NoDevice none;
  return Trainer<NoDevice, T>(none, model, optim, train).memory();
}
template Arena trainer_memory<float>(const ModelConfig&, const OptimConfig&, const TrainConfig&);
template Arena trainer_memory<bf16>(const ModelConfig&, const OptimConfig&, const TrainConfig&);

#define FAIRWAY_INSTANTIATE(Device, T) template class Trainer<Device, T>;
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
