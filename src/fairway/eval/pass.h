// One trip of a packed buffer of windows through the network: forward, loss and, for adapters in
// training, backward. All memory is measured by a dry run and taken once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fairway/base/arena.h"
#include "fairway/data/stream.h"
#include "fairway/eval/plan.h"
#include "fairway/model/model.h"

namespace fairway {

// Adapters of the windows of one pass, one document each: `layout->size()` elements of device
// memory behind each pointer, not owned.
struct PassLora {
  const LoraLayout* layout = nullptr;
  std::span<float* const> docs;
  std::span<float* const> gradients;  // empty: no backward
};

template <class Device>
class Pass {
 public:
  // The most that one pass will hold.
  struct Capacity {
    int64_t rows = 0, scored = 0, windows = 0;
    bool for_backward = false;
  };

  // `net` and what `weights` points to must outlive the pass.
  Pass(Device& device, const Network& net, const Weights<const float>& weights,
       const Capacity& capacity);

  // nll of every scored row, window after window; valid until the next call. With `lora`, window i
  // runs through adapter i; with its gradients, also accumulates into gradient i the gradient of
  // the mean nll of window i's scored rows. Each window's result is the same bits whatever else is
  // in the pass. Throws Error naming the position of a non-finite nll.
  std::span<const float> run(const TokenStream& stream, std::span<const Window> windows,
                             const PassLora* lora);

 private:
  struct Layout {
    Tensor<int32_t> inputs, cu_seqlens, rows, targets;
    Tensor<float> nll, d_nll;
    Acts<float> acts;
    Arena scratch;
  };
  Layout take(Arena& arena, const Capacity& size) const;

  Device& device_;
  const Network& net_;
  Weights<const float> weights_;
  Capacity capacity_;
  typename Device::Buffer memory_;
  std::vector<int32_t> inputs_, cu_seqlens_, rows_, targets_;  // host side of one pass
  std::vector<float> nll_, d_nll_;
};

}  // namespace fairway
