// One trip of a packed buffer of windows through the network: forward, loss and, for adapters in
// training, backward. All memory is measured by a dry run and taken once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fairway/base/arena.h"
#include "fairway/data/stream.h"
#include "fairway/device/graphs.h"
#include "fairway/eval/plan.h"
#include "fairway/model/model.h"

namespace fairway {

// Adapters of the windows of one pass, one document each: `layout->size()` elements of device
// memory a document, not owned.
template <class T>
struct PassLora {
  const LoraLayout* layout = nullptr;
  const float* docs = nullptr;  // window i's adapters at docs + i·stride
  T* gradients = nullptr;       // the same for gradients; null: no backward
  int64_t stride = 0;
  // Window i's copies (model/lora_copies.h) at copied + i·copies->stride(); null: there are none.
  const LoraCopies* copies = nullptr;
  const bf16* copied = nullptr;
};

// T: the element type of activations and matrices (model/model.h).
template <class Device, class T>
class Pass {
 public:
  // The most that one pass will hold.
  struct Capacity {
    int64_t rows = 0, scored = 0, windows = 0;
    bool for_backward = false;
    const LoraConfig* lora = nullptr;  // the adapters that `run` may be given; null: none
    E4m3Mlp mlp = E4m3Mlp::off;        // what the MLP's products read (model/acts.h)
  };

  // `net` and what `weights`, `capacity` and the layouts given to `run` point to must outlive the
  // pass, and the weights stay as they are.
  Pass(Device& device, const Network& net, const Weights<const T>& weights,
       const Capacity& capacity);

  // What a pass of that capacity takes of the device's memory, the ops' own scratch aside.
  static size_t bytes(const Network& net, const Capacity& capacity);

  // nll of every scored row, window after window; valid until the next call. With `lora`, window i
  // runs through adapter i; with its gradients, also writes to gradient i the gradient of the mean
  // nll of window i's scored rows. Each window's result is the same bits whatever else is
  // in the pass. Throws Error naming the position of a non-finite nll.
  std::span<const float> run(const TokenStream& stream, std::span<const Window> windows,
                             const PassLora<T>* lora);

 private:
  struct Layout {
    Tensor<int32_t> inputs, cu_seqlens, rows, targets, cu_rows;
    Tensor<int32_t> row_tiles, head_row_tiles;  // of documents with adapters
    Tensor<float> nll, d_nll;
    Acts<T> acts;
    Arena scratch;
  };
  static Layout take(const Network& net, const Capacity& size, Arena& arena);
  static size_t folded_bytes(const Network& net, const Capacity& capacity);
  static size_t layout_bytes(const Network& net, const Capacity& capacity);

  Device& device_;
  const Network& net_;
  Weights<const T> weights_;
  Capacity capacity_;
  typename Device::Buffer folded_memory_, memory_;
  FoldedWeights<T> folded_;
  std::vector<int32_t> inputs_, cu_seqlens_, rows_, targets_, cu_rows_;  // host side of one pass
  std::vector<float> nll_, d_nll_;
  typename Device::Graphs forward_, backward_;
};

}  // namespace fairway
