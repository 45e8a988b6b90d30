// A model with its buffers, for tests: forward, loss and backward on one packed buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fairway/device/run_types.h"
#include "fairway/model/model.h"

namespace fairway::testing {

// Host values of a device's tensor.
template <class Device, class T>
std::vector<T> host_values(Device& device, Tensor<T> t) {
  std::vector<T> values(static_cast<size_t>(t.size()));
  device.download(values.data(), t.data, values.size() * sizeof(T));
  return values;
}

template <class T, class Device = CpuDevice>
class ModelRun {
 public:
  ModelRun(Device& device, const ModelConfig& config, bool looped,
           const std::vector<int32_t>& inputs, const std::vector<int32_t>& targets,
           const std::vector<int32_t>& cu_seqlens, const std::vector<int32_t>& rows = {},
           const LoraConfig* lora = nullptr, E4m3Mlp mlp = E4m3Mlp::off)
      : device_(device), net(config, looped) {
    batch = {ints(inputs), ints(cu_seqlens), ints(rows), ints(starts_among(rows, cu_seqlens)),
             ints(targets)};
    Arena dry;
    take_folded<T>(config, mlp, dry);
    take_acts<T>(config, net.route, batch.T(), batch.N(), true, dry, lora, mlp);
    acts_memory_ = device.allocate(dry.peak());
    Arena arena(acts_memory_.data(), dry.peak());
    const FoldedWeights<T> folded = take_folded<T>(config, mlp, arena);
    acts = take_acts<T>(config, net.route, batch.T(), batch.N(), true, arena, lora, mlp);
    acts.folded = folded;
    scratch_memory_ = device.allocate(scratch_bytes<T>(net, batch.T(), batch.N(), true, lora));
    nll.resize(targets.size());
    const auto n = static_cast<double>(batch.N());
    const std::vector<Accum<T>> weights(targets.size(), Accum<T>(1.0f) / Accum<T>(n));
    d_nll_ = upload(weights);
    nll_ = device.allocate(targets.size() * sizeof(Accum<T>));
  }

  // The weight of each row's nll in the loss that gradients are of, instead of 1/N each.
  void weigh_rows(const std::vector<Accum<T>>& weights) { d_nll_ = upload(weights); }

  // Mean nll; with dweights or dlora also its gradients (those of
  // weights accumulated, those of adapters written). Every pointer is the
  // device's.
  Accum<T> loss(const Weights<const T>& w, const Lora<const Accum<T>>* lora = nullptr,
                const Weights<Accum<T>>* dweights = nullptr, const Lora<T>* dlora = nullptr) {
    const Arena scratch(scratch_memory_.data(), scratch_memory_.bytes());
    const bool gradients = dweights || dlora;
    const Tensor<Accum<T>> nll_view{reinterpret_cast<Accum<T>*>(nll_.data()), {batch.N()}};
    const auto* d_nll = reinterpret_cast<const Accum<T>*>(d_nll_.data());
    fold_weights(device_, net.config, w, acts.folded);
    forward(device_, net, w, lora, batch, acts, scratch);
    head_loss(device_, net, w, lora, batch, acts, nll_view, gradients ? d_nll : nullptr, dweights,
              dlora, scratch);
    if (gradients) backward(device_, net, w, lora, batch, acts, dweights, dlora, scratch);
    device_.download(nll.data(), nll_view.data, nll.size() * sizeof(Accum<T>));
    Accum<T> sum{};
    for (const auto& x : nll) sum += x;
    return sum / Accum<T>(static_cast<double>(batch.N()));
  }

 private:
  // Where each segment's rows begin among `rows`, then their number; none if all rows are meant.
  static std::vector<int32_t> starts_among(const std::vector<int32_t>& rows,
                                           const std::vector<int32_t>& cu_seqlens) {
    std::vector<int32_t> starts;
    for (const int32_t begin : rows.empty() ? std::vector<int32_t>{} : cu_seqlens)
      starts.push_back(
          static_cast<int32_t>(std::lower_bound(rows.begin(), rows.end(), begin) - rows.begin()));
    return starts;
  }
  template <class U>
  typename Device::Buffer upload(const std::vector<U>& values) {
    auto buffer = device_.allocate(values.size() * sizeof(U));
    device_.upload(buffer.data(), values.data(), values.size() * sizeof(U));
    return buffer;
  }
  Tensor<const int32_t> ints(const std::vector<int32_t>& values) {
    if (values.empty()) return {nullptr, {0}};
    int_memory_.push_back(upload(values));
    return {reinterpret_cast<const int32_t*>(int_memory_.back().data()), {std::ssize(values)}};
  }

  Device& device_;
  std::vector<typename Device::Buffer> int_memory_;

 public:
  const Network net;
  Batch batch;
  Acts<T> acts;
  std::vector<Accum<T>> nll;

 private:
  typename Device::Buffer acts_memory_, scratch_memory_, nll_, d_nll_;
};

}  // namespace fairway::testing
