// The state of a training run in memory, and one step of it. What surrounds the steps (clock, log,
// checkpoints) is train/run.h.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "fairway/base/arena.h"
#include "fairway/data/loader.h"
#include "fairway/device/device.h"
#include "fairway/model/model.h"
#include "fairway/optim/optimizer.h"
#include "fairway/train/config.h"

namespace fairway {

// What the schedule says about a step; `step` counts finished steps.
struct StepPlan {
  int64_t step = 0;
  double lr_factor = 1;
  bool looped = false;
};

struct StepResult {
  double loss = 0;       // mean nll of the step's tokens, before the update
  double grad_norm = 0;  // before clipping
};

// T: the element type of activations and of the matrices that products read (model/model.h).
// Weights, gradients and optimizer state are float32 whatever it is.
template <class Device, class T = float>
class Trainer {
 public:
  // Takes all memory at once; weights and state are zero until init() or a checkpoint fills them.
  Trainer(Device& device, const ModelConfig& model, const OptimConfig& optim,
          const TrainConfig& train);

  // Runs `micro_steps` steps of one micro-batch each on synthetic tokens, on both routes in turn,
  // so that whatever is done once (kernels made, pages touched) is done; then everything is zero
  // again.
  void warm_up(int micro_steps);

  // Weights from the seed; the moving average starts at them.
  void init();

  // One optimizer step on the mean gradient of the step's micro-batches, each from `next`. If
  // `cancelled` says so between micro-batches, nothing: weights and state are as before. A loss or
  // gradient that is not finite comes back in the result, also with weights and state as before.
  using NextBatch = std::function<PackedBatch()>;
  using Cancelled = std::function<bool()>;
  std::optional<StepResult> step(const StepPlan& plan, const NextBatch& next,
                                 const Cancelled& cancelled = {});

  // After a checkpoint has filled the state.
  void state_changed() { round_weights(); }

  Tensor<float> weights() const { return weights_; }
  Tensor<float> gradients() const { return gradients_; }  // of the last micro-batches
  const OptimState& optim_state() const { return state_; }

  // f(name, tensor) for each buffer that a checkpoint holds.
  template <class F>
  void for_each_state(F&& f) const {
    f("weights", weights_);
    for_each(state_, f);
  }

  // The dry run: bytes taken, by name.
  const Arena& memory() const { return dry_run_; }
  std::string memory_report() const { return dry_run_.report(); }
  size_t memory_bytes() const { return buffer_.bytes(); }

 private:
  void lay_out(Arena& arena);
  // The rounded copy follows the weights; whoever changes them calls this.
  void round_weights();
  Weights<const T> weights_of_products() const;
  double micro_step(bool looped, const PackedBatch& batch);
  // The one place where ranks will meet: the mean of the gradients over them.
  void reduce_gradients() {}

  Device& device_;
  ModelConfig model_;
  OptimConfig optim_;
  TrainConfig train_;
  Network plain_, looped_;
  int64_t rows_;  // tokens of a micro-batch
  int accumulation_;

  typename Device::Buffer buffer_;
  Arena dry_run_;
  Tensor<float> weights_, gradients_;  // [flat]
  Tensor<T> matrices_;                 // the matrices rounded to T; null where T is float
  OptimState state_;
  Tensor<int32_t> inputs_, targets_;  // [rows]
  Tensor<int32_t> cu_seqlens_;        // room for the largest; a batch uses the beginning
  Tensor<float> nll_, d_nll_;         // [rows]
  Acts<T> acts_plain_, acts_looped_;
  Tensor<std::byte> scratch_;
  std::vector<float> host_nll_;
};

// What a Trainer takes, by name, without taking it: no device is needed. T as the Trainer's.
template <class T>
Arena trainer_memory(const ModelConfig& model, const OptimConfig& optim, const TrainConfig& train);

}  // namespace fairway
