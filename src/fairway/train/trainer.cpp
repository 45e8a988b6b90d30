#include "fairway/train/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

#include "fairway/base/check.h"
#include "fairway/data/packing.h"
#include "fairway/device/run_types.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/ops/round_to.h"

namespace fairway {

namespace {

// Two routes, each with the few lengths of cu_seqlens, in buckets, that micro-batches come to.
constexpr size_t kGraphs = 16;

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

}  // namespace

template <class Device, class T>
Trainer<Device, T>::Trainer(Device& device, const ModelConfig& model, const OptimConfig& optim,
                            const TrainConfig& train, ProcessGroup* group)
    : device_(device),
      alone_(group ? nullptr : make_single_process()),
      group_(group ? *group : *alone_),
      model_(model),
      optim_(optim),
      train_(train),
      plain_(model, false),
      looped_(model, true),
      rows_(train.micro_batch_tokens()),
      micro_steps_(train.micro_steps),
      sharding_(model, make_communicator(device, group_)),
      graphs_(device, kGraphs) {
  const E4m3Mlp mlp = e4m3_mlp<T>(device, model, train.matmul_precision);
  const auto lay_out = [&](Arena& arena) {
    return take_trainer_buffers<T>(model_, train_, sharding_.shard(), mlp, arena);
  };
  lay_out(dry_run_);
  buffer_ = device.allocate(dry_run_.peak());
  Arena arena(buffer_.data(), buffer_.bytes());
  b_ = lay_out(arena);
  const std::vector<float> mean(static_cast<size_t>(rows_),
                                1.0f / static_cast<float>(rows_ * micro_steps_));
  device_.upload(b_.d_nll.data, mean.data(), mean.size() * sizeof(float));
}

template <class Device, class T>
void Trainer<Device, T>::warm_up(int micro_steps) {
  if (micro_steps == 0) return;
  const PackedBatch batch = synthetic_batch(model_, rows_);
  for (int i = 0; i < micro_steps; ++i) {
    begin_step();
    micro_step(i % 2 == 0, batch);
    update({});
  }
  for_each_state([&](const char*, Tensor<float> t) {
    device_.zero(t.data, static_cast<size_t>(t.size()) * sizeof(float));
  });
}

template <class Device, class T>
void Trainer<Device, T>::init() {
  std::vector<float> host(static_cast<size_t>(b_.weights.size()));
  CpuDevice cpu(group_.threads(train_.threads));
  init_weights(cpu, model_, train_.seed, host.data());
  upload_state("weights", host);
  upload_state("ema", host);
}

template <class Device, class T>
void Trainer<Device, T>::round_weights() {
  if constexpr (!std::is_same_v<T, float>)
    round_to(device_, b_.matrices.size(), b_.weights.data, b_.matrices.data);
}

template <class Device, class T>
Weights<const T> Trainer<Device, T>::weights_of_products() const {
  if constexpr (std::is_same_v<T, float>)
    return weights_view<const float>(model_, b_.weights.data);
  else
    return weights_view<const T>(model_, b_.matrices.data, b_.weights.data);
}

// Gradients and sums of no micro-batch yet.
template <class Device, class T>
void Trainer<Device, T>::begin_step() {
  device_.zero(b_.gradients.data, static_cast<size_t>(b_.gradients.size()) * sizeof(float));
  device_.zero(b_.sums, sizeof *b_.sums);
}

// Forward and backward on one micro-batch. The host need not wait for it.
template <class Device, class T>
void Trainer<Device, T>::micro_step(bool looped, const PackedBatch& packed) {
  check(static_cast<int64_t>(packed.inputs.size()) == rows_ &&
            static_cast<int64_t>(packed.targets.size()) == rows_ &&
            static_cast<int64_t>(packed.cu_seqlens.size()) <= b_.cu_seqlens.size(),
        "Trainer: a batch of another size");
  device_.upload(b_.inputs.data, packed.inputs.data(), packed.inputs.size() * sizeof(int32_t));
  device_.upload(b_.targets.data, packed.targets.data(), packed.targets.size() * sizeof(int32_t));
  device_.upload(b_.cu_seqlens.data, packed.cu_seqlens.data(),
                 packed.cu_seqlens.size() * sizeof(int32_t));
  const auto starts = static_cast<int64_t>(packed.cu_seqlens.size());
  const Batch batch{b_.inputs, {b_.cu_seqlens.data, {starts}}, {}, {}, b_.targets};
  // All else that the work depends on is the trainer's own and stays as it is.
  graphs_.run({looped, starts}, [&] {
    const Network& net = looped ? looped_ : plain_;
    const Acts<T>& acts = looped ? b_.acts_looped : b_.acts_plain;
    const Weights<const T> w = weights_of_products();
    const auto dw = weights_view<float>(model_, b_.gradients.data);
    const Arena scratch(b_.scratch.data, static_cast<size_t>(b_.scratch.size()));
    fold_weights(device_, model_, w, acts.folded);
    forward(device_, net, w, nullptr, batch, acts, scratch);
    head_loss<Device, T>(device_, net, w, nullptr, batch, acts, b_.nll, b_.d_nll.data, &dw, nullptr,
                         scratch);
    backward<Device, T>(device_, net, w, nullptr, batch, acts, &dw, nullptr, scratch);
    add_sum(device_, rows_, b_.nll.data, &b_.sums->nll);
  });
}

template <class Device, class T>
int Trainer<Device, T>::own_micro_steps() const {
  return (micro_steps_ - group_.rank() + group_.size() - 1) / group_.size();
}

template <class Device, class T>
std::optional<StepResult> Trainer<Device, T>::step(const StepPlan& plan, const NextBatch& next,
                                                   const Cancelled& cancelled) {
  begin_step();
  for (int i = 0; i < own_micro_steps(); ++i) {
    if (cancelled && group_.size() == 1 && cancelled()) return std::nullopt;
    micro_step(plan.looped, next());
  }
  return update(plan);
}

// The only wait of a step. `own_slices`: the squares are of what this rank alone knows of gradients
// that have been summed over ranks, or on rank 0 of what all know too.
template <class Device, class T>
StepSums Trainer<Device, T>::fetch_sums(bool own_slices) {
  device_.zero(&b_.sums->squares, sizeof b_.sums->squares);
  const auto add = [&](int64_t begin, int64_t n) {
    add_squares(device_, n, b_.gradients.data + begin, &b_.sums->squares);
  };
  if (own_slices) {
    const Shard& shard = sharding_.shard();
    for (const BankSlice& b : shard.banks) add(b.own(), b.count * b.matrix());
    if (group_.root()) add(shard.rest_flat, shard.rest_size);
  } else {
    add(0, b_.gradients.size());
  }
  StepSums sums;
  device_.download(&sums, b_.sums, sizeof sums);
  return sums;
}

// Gradients are sums of d(nll)/(tokens of the step), over micro-batches and then over ranks: means
// over the step's tokens in the end. A rank's own mean, which per-rank clipping is about, is its
// sum times M over its micro-batches.
template <class Device, class T>
StepResult Trainer<Device, T>::update(const StepPlan& plan) {
  const bool global = optim_.clip_mode == ClipMode::global;
  if (global) {
    sharding_.start_reduce(b_.gradients.data);
    sharding_.wait_reduced();
  }
  auto [nll, squares] = fetch_sums(global && group_.size() > 1);
  if (global) group_.sum(std::span(&squares, 1));
  const double norm =
      std::sqrt(squares) * (global ? 1 : static_cast<double>(micro_steps_) / own_micro_steps());
  std::array<double, 2> sums{nll, norm};  // what is not finite on one rank becomes so on all
  group_.sum(sums);
  const StepResult result{.loss = sums[0] / static_cast<double>(rows_ * micro_steps_),
                          .grad_norm = sums[1] / group_.size()};
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) return result;
  if (optim_.clip_norm > 0)
    clip_grad(device_, b_.gradients.size(), b_.gradients.data, norm, optim_.clip_norm);
  if (!global) sharding_.start_reduce(b_.gradients.data);

  const Arena scratch(b_.scratch.data, static_cast<size_t>(b_.scratch.size()));
  optimizer_step(device_, model_, optim_, plan.step, plan.lr_factor, b_.weights.data,
                 b_.gradients.data, b_.state, sharding_, scratch);
  round_weights();
  return result;
}

template <class Device, class T>
Tensor<float> Trainer<Device, T>::state_tensor(const std::string& name) const {
  Tensor<float> found;
  for_each_state([&](const char* candidate, Tensor<float> t) {
    if (candidate == name) found = t;
  });
  check(found.data != nullptr, "Trainer: no such state");
  return found;
}

namespace {

bool is_sharded(const std::string& name) {
  return name == "momentum" || name == "ema";
}

// Elements of a tensor over all ranks, `own` of them in this one's.
int64_t whole_size(const ModelConfig& model, const std::string& name, int64_t own) {
  const Shard whole(model, 0, 1);
  return name == "momentum" ? whole.bank_elements : name == "ema" ? whole.size() : own;
}

// f(offset in the whole tensor, offset in the shard's, elements) for each part of it that a shard
// keeps; `size` is the shard's.
template <class F>
void for_each_part(const Shard& shard, int64_t size, F&& f) {
  for (const OwnRun& run : shard.runs()) {
    const int64_t n = std::min(run.size, size - run.state);
    if (n > 0) f(run.flat, run.state, n);
  }
}

}  // namespace

template <class Device, class T>
std::vector<std::pair<std::string, int64_t>> Trainer<Device, T>::state_sizes() const {
  std::vector<std::pair<std::string, int64_t>> sizes;
  for_each_state([&](const char* name, Tensor<float> t) {
    sizes.emplace_back(name, whole_size(model_, name, t.size()));
  });
  return sizes;
}

template <class Device, class T>
void Trainer<Device, T>::download_state(const std::string& name, std::span<float> values) {
  const Tensor<float> own = state_tensor(name);
  check(!group_.root() || std::ssize(values) == whole_size(model_, name, own.size()),
        "Trainer: state of another size");
  if (!is_sharded(name) || group_.size() == 1) {
    if (group_.root()) device_.download(values.data(), own.data, values.size_bytes());
    return;
  }
  // The banks' parts come from each rank; what lies behind them, rank 0 has like all others.
  if (!group_.root()) {
    std::vector<float> part(static_cast<size_t>(sharding_.shard().bank_elements));
    device_.download(part.data(), own.data, part.size() * sizeof(float));
    for_each_part(sharding_.shard(), std::ssize(part), [&](int64_t, int64_t from, int64_t n) {
      group_.send(0, std::as_bytes(std::span(part).subspan(static_cast<size_t>(from),
                                                           static_cast<size_t>(n))));
    });
    return;
  }
  std::fill(values.begin(), values.end(), 0.0f);
  const auto place = [&](int64_t to, int64_t n) {
    return values.subspan(static_cast<size_t>(to), static_cast<size_t>(n));
  };
  for_each_part(sharding_.shard(), own.size(), [&](int64_t to, int64_t from, int64_t n) {
    device_.download(place(to, n).data(), own.data + from, place(to, n).size_bytes());
  });
  for (int rank = 1; rank < group_.size(); ++rank) {
    const Shard shard(model_, rank, group_.size());
    for_each_part(shard, shard.bank_elements, [&](int64_t to, int64_t, int64_t n) {
      group_.receive(rank, std::as_writable_bytes(place(to, n)));
    });
  }
}

template <class Device, class T>
void Trainer<Device, T>::upload_state(const std::string& name, std::span<const float> values) {
  const Tensor<float> own = state_tensor(name);
  const auto upload = [&](int64_t from, int64_t to, int64_t n) {
    check(from + n <= std::ssize(values), "Trainer: state of another size");
    device_.upload(own.data + to, values.data() + from, static_cast<size_t>(n) * sizeof(float));
  };
  if (is_sharded(name))
    for_each_part(sharding_.shard(), own.size(), upload);
  else
    upload(0, 0, own.size());
  if (name == "weights") round_weights();
}

#define FAIRWAY_INSTANTIATE(Device, T) template class Trainer<Device, T>;
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
