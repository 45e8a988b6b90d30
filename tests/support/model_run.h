// A model with its buffers, for tests: forward, loss and backward on one packed buffer.
#pragma once

#include <cstdint>
#include <vector>

#include "fairway/device/cpu_device.h"
#include "fairway/model/model.h"

namespace fairway::testing {

template <class T>
class ModelRun {
 public:
  ModelRun(CpuDevice& device, const ModelConfig& config, bool looped, std::vector<int32_t> inputs,
           std::vector<int32_t> targets, std::vector<int32_t> cu_seqlens,
           std::vector<int32_t> rows = {})
      : device_(device),
        net(config, looped),
        inputs_(std::move(inputs)),
        targets_(std::move(targets)),
        cu_seqlens_(std::move(cu_seqlens)),
        rows_(std::move(rows)) {
    const auto ints = [](const std::vector<int32_t>& v) {
      return Tensor<const int32_t>(v.empty() ? nullptr : v.data(),
                                   {static_cast<int64_t>(v.size())});
    };
    batch = {ints(inputs_), ints(cu_seqlens_), ints(rows_), ints(targets_)};
    Arena dry;
    take_acts<T>(config, net.route, batch.T(), batch.N(), true, dry);
    acts_memory_ = HostBuffer(dry.peak());
    Arena arena(acts_memory_.data(), dry.peak());
    acts = take_acts<T>(config, net.route, batch.T(), batch.N(), true, arena);
    scratch_memory_ = HostBuffer(scratch_bytes<T>(net, batch.T(), batch.N(), true));
    nll.resize(targets_.size());
  }

  // Mean nll; with dweights or dlora also its gradients (accumulated).
  T loss(const Weights<const T>& w, const Lora<const T>* lora = nullptr,
         const Weights<T>* dweights = nullptr, const Lora<T>* dlora = nullptr) {
    const Arena scratch(scratch_memory_.data(), scratch_memory_.bytes());
    const bool gradients = dweights || dlora;
    const auto n = static_cast<double>(batch.N());
    const std::vector<T> d_nll(targets_.size(), T(static_cast<float>(1)) / T(n));
    forward(device_, net, w, lora, batch, acts, scratch);
    head_loss(device_, net, w, lora, batch, acts, {nll.data(), {batch.N()}},
              gradients ? d_nll.data() : nullptr, dweights, dlora, scratch);
    if (gradients) backward(device_, net, w, lora, batch, acts, dweights, dlora, scratch);
    T sum{};
    for (const T& x : nll) sum += x;
    return sum / T(n);
  }

 private:
  CpuDevice& device_;

 public:
  const Network net;
  Batch batch;
  Acts<T> acts;
  std::vector<T> nll;

 private:
  std::vector<int32_t> inputs_, targets_, cu_seqlens_, rows_;
  HostBuffer acts_memory_, scratch_memory_;
};

}  // namespace fairway::testing
