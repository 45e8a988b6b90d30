// The Hessians of GPTQ: H = Σ xᵀx / n over the inputs x of each matrix, on n batches of training
// text.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fairway/base/tensor.h"
#include "fairway/device/cpu_device.h"
#include "fairway/model/config.h"
#include "fairway/quant/config.h"

namespace fairway {

class TokenStream;

// Matrices that read the same input share one Hessian: Wq, Wk and Wv of a layer; the uses of a
// looped layer add up.
class Hessians {
 public:
  explicit Hessians(const ModelConfig& config);

  // The Hessian [cols, cols] of a matrix by its name in files ("blocks.3.attn.c_q.weight"); of the
  // embedding or the head: that of the final normalised hidden state. Null for other names.
  Tensor<const float> of(const std::string& name) const;

  // The inputs that Hessians are kept for.
  enum Input { attn_in, attn_out, mlp_in, mlp_hidden, kInputs };
  Tensor<float> layer(int layer, Input input);
  Tensor<float> head();

  // Multiplies every Hessian by `factor`.
  void scale(float factor);

 private:
  ModelConfig config_;
  std::vector<std::vector<float>> layers_;  // [L · kInputs]
  std::vector<float> head_;
};

// The windows of text that calibration reads: [batches][windows of a batch] start offsets, drawn
// without replacement (over again once all are used) from the stream cut into whole windows. Throws
// Error if the stream is shorter than one window.
std::vector<std::vector<int64_t>> calibration_windows(int64_t stream_tokens,
                                                      const QuantConfig& config);

// Adds Σ xᵀx of every matrix input over `inputs` [windows · window] token ids, every window one
// attention segment, looping on (when the model has loops).
void accumulate_hessians(CpuDevice& device, const ModelConfig& config, const float* flat,
                         Tensor<const int32_t> inputs, int64_t window, Hessians& hessians);

// All of it, on windows drawn from `text`, divided by n. `progress`, if given, hears of each batch
// done.
Hessians calibrate(CpuDevice& device, const ModelConfig& config, const float* flat,
                   const TokenStream& text, const QuantConfig& quant,
                   const std::function<void(int done, int of)>& progress = {});

}  // namespace fairway
