// The state of a training run in memory, and one step of it, on one rank or on several together.
// What surrounds the steps (clock, log, checkpoints) is train/run.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fairway/base/arena.h"
#include "fairway/comm/process_group.h"
#include "fairway/data/loader.h"
#include "fairway/device/device.h"
#include "fairway/device/graphs.h"
#include "fairway/model/model.h"
#include "fairway/optim/optimizer.h"
#include "fairway/train/config.h"
#include "fairway/train/trainer_buffers.h"

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
  // The ranks of `group` (null: this process alone) train one model together: what follows is then
  // collective, and none of it may throw on some ranks alone.
  Trainer(Device& device, const ModelConfig& model, const OptimConfig& optim,
          const TrainConfig& train, ProcessGroup* group = nullptr);

  // Runs `micro_steps` steps of one micro-batch each on synthetic tokens, on both routes in turn,
  // so that whatever is done once (kernels made, pages touched) is done; then everything is zero
  // again.
  void warm_up(int micro_steps);

  // Weights from the seed; the moving average starts at them.
  void init();

  // One optimizer step on the mean gradient of the step's micro-batches, of which `next` gives this
  // rank's: every P-th. If `cancelled` says so between micro-batches, nothing: weights and state
  // are as before (one process alone can be cancelled, not one rank of several). A loss or gradient
  // that is not finite comes back in the result, also with weights and state as before.
  using NextBatch = std::function<PackedBatch()>;
  using Cancelled = std::function<bool()>;
  std::optional<StepResult> step(const StepPlan& plan, const NextBatch& next,
                                 const Cancelled& cancelled = {});

  // The second half of a step, on the gradients as they are: clipping, the sum over ranks, the
  // optimizer. The loss is that of the last step's micro-batches.
  StepResult update(const StepPlan& plan);

  // Micro-batches of a step that are this rank's.
  int own_micro_steps() const;

  // The state of all ranks together, as a checkpoint holds it: the same tensors, and each of the
  // same size, whatever the number of ranks.
  std::vector<std::pair<std::string, int64_t>> state_sizes() const;
  // `values`, of its size, ← the tensor of that name; on rank 0 alone, where it is wanted.
  void download_state(const std::string& name, std::span<float> values);
  // Every rank takes its part of the tensor. Not collective.
  void upload_state(const std::string& name, std::span<const float> values);

  Tensor<float> weights() const { return b_.weights; }
  Tensor<float> gradients() const { return b_.gradients; }    // of the last micro-batches
  const OptimState& optim_state() const { return b_.state; }  // this rank's shard

  // The dry run: bytes taken, by name.
  const Arena& memory() const { return dry_run_; }
  std::string memory_report() const { return dry_run_.report(); }
  size_t memory_bytes() const { return buffer_.bytes(); }

 private:
  // The rounded copy follows the weights; whoever changes them calls this.
  void round_weights();
  Weights<const T> weights_of_products() const;
  void begin_step();
  void micro_step(bool looped, const PackedBatch& batch);
  StepSums fetch_sums(bool own_slices);
  template <class F>
  void for_each_state(F&& f) const {
    f("weights", b_.weights);
    for_each(b_.state, f);
  }
  Tensor<float> state_tensor(const std::string& name) const;

  Device& device_;
  std::unique_ptr<ProcessGroup> alone_;  // where no group was given
  ProcessGroup& group_;
  ModelConfig model_;
  OptimConfig optim_;
  TrainConfig train_;
  Network plain_, looped_;
  int64_t rows_;     // tokens of a micro-batch
  int micro_steps_;  // micro-batches of a step, over all ranks
  Sharding sharding_;

  typename Device::Buffer buffer_;
  Arena dry_run_;
  TrainerBuffers<T> b_;
  typename Device::Graphs graphs_;
};

}  // namespace fairway
