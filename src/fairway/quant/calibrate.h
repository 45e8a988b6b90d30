// The Hessians of GPTQ: H = Σ xᵀx / n over the inputs x of each matrix, on n batches of training
// text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "fairway/base/arena.h"
#include "fairway/base/tensor.h"
#include "fairway/comm/process_group.h"
#include "fairway/device/device.h"
#include "fairway/model/model.h"
#include "fairway/quant/config.h"

namespace fairway {

class TokenStream;

// Matrices that read the same input share one Hessian: Wq, Wk and Wv of a layer; the uses of a
// looped layer add up. All of them lie in one buffer, in host memory here, on a device while they
// are summed.
class Hessians {
 public:
  explicit Hessians(const ModelConfig& config);

  // The Hessian [cols, cols] of a matrix by its name in files ("blocks.3.attn.c_q.weight"); of the
  // embedding or the head: that of the final normalised hidden state. Null for other names.
  Tensor<const float> of(const std::string& name) const;

  // The inputs that Hessians are kept for.
  enum Input { attn_in, attn_out, mlp_in, mlp_hidden, kInputs };

  // Multiplies every Hessian by `factor`.
  void scale(float factor);

  // The buffer, and where in one laid out alike each Hessian lies.
  static int64_t size(const ModelConfig& config);
  static Tensor<float> layer(const ModelConfig& config, float* flat, int layer, Input input);
  static Tensor<float> head(const ModelConfig& config, float* flat);
  std::span<float> flat() { return flat_; }

 private:
  ModelConfig config_;
  std::vector<float> flat_;
};

// The windows of text that calibration reads: [batches][windows of a batch] start offsets, drawn
// without replacement (over again once all are used) from the stream cut into whole windows. Throws
// Error if the stream is shorter than one window.
std::vector<std::vector<int64_t>> calibration_windows(int64_t stream_tokens,
                                                      const QuantConfig& config);

// Sums the Hessians of one model in the memory of a device. T: the element type of activations and
// matrices (model/model.h); the sums are float32.
template <class Device, class T>
class Calibration {
 public:
  // `tokens`: the most that one call of add will bring, in whole windows of `window`. What
  // `weights` points to must outlive this.
  Calibration(Device& device, const ModelConfig& config, const Weights<const T>& weights,
              int64_t tokens, int64_t window);

  // Adds Σ xᵀx of every matrix input over `inputs`, token ids in host memory, every window one
  // attention segment, looping on (when the model has loops).
  void add(std::span<const int32_t> inputs);

  // The sums so far.
  Hessians sums() const;

 private:
  struct Layout;
  Layout take(Arena& arena, int64_t tokens) const;

  Device& device_;
  Network net_;
  Weights<const T> weights_;
  int64_t tokens_, window_;
  typename Device::Buffer sums_, memory_;
};

// All of it, on windows drawn from `text`, divided by n. Collective: every rank takes its part of
// the windows, and all get the sums over ranks; float32 sums in another order, so the last bits
// depend on how many ranks there are. `progress`, if given, hears how many of this rank's windows
// are done.
template <class Device, class T>
Hessians calibrate(Device& device, const ModelConfig& config, const Weights<const T>& weights,
                   const TokenStream& text, const QuantConfig& quant, ProcessGroup& group,
                   const std::function<void(int64_t done, int64_t of)>& progress = {});

}  // namespace fairway
