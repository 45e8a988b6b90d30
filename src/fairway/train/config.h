// Schedule, batch, checkpoints and compute of a training run: the recipe's [train] table.
#pragma once

#include <cstdint>

#include "fairway/device/choose.h"

namespace fairway {

struct TrainConfig {
  uint64_t seed = 1337;

  // Batch. One step sees batch_tokens, in micro_steps equal parts: the product of ranks and
  // accumulation steps.
  int64_t batch_tokens = 786432;
  int micro_steps = 8;

  // Length. Progress f is elapsed/(max_seconds − reserve_seconds), or step/steps without a time
  // cap.
  double max_seconds = 600.0;  // 0: no time cap
  double reserve_seconds = 13.0;
  int64_t steps = 20000;

  // Schedule over f.
  double warmdown = 0.72;
  double min_lr = 0.0;
  double loop_at = 0.35;

  int warmup_steps = 20;  // before the clock starts, on synthetic tokens, without effect on the run

  int64_t checkpoint_every = 0;       // steps; 0: not by steps
  double checkpoint_seconds = 300.0;  // 0: not by time
  int keep_checkpoints = 2;
  int log_every = 10;

  DeviceKind device = DeviceKind::automatic;
  int threads = 0;  // of the CPU; 0: one per core
  MatmulPrecision matmul_precision = MatmulPrecision::automatic;

  // Tokens of one micro-batch on one rank.
  int64_t micro_batch_tokens() const { return batch_tokens / micro_steps; }

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const TrainConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("seed", c.seed, "seed of everything random");
    f("batch_tokens", c.batch_tokens, "tokens of one optimizer step, over all ranks");
    f("micro_steps", c.micro_steps,
      "parts a step's batch is cut into: ranks times accumulation steps");
    f("max_seconds", c.max_seconds, "wall-clock cap of training (0: none, train for `steps`)");
    f("reserve_seconds", c.reserve_seconds, "part of max_seconds kept back for quantization");
    f("steps", c.steps, "optimizer steps, at most");
    f("warmdown", c.warmdown, "last part of training over which the learning rate falls to min_lr");
    f("min_lr", c.min_lr, "lowest learning-rate factor");
    f("loop_at", c.loop_at, "progress at which looping switches on");
    f("warmup_steps", c.warmup_steps,
      "untimed steps on synthetic tokens before training, without effect on the result");
    f("checkpoint_every", c.checkpoint_every, "steps between checkpoints (0: not by steps)");
    f("checkpoint_seconds", c.checkpoint_seconds, "seconds between checkpoints (0: not by time)");
    f("keep_checkpoints", c.keep_checkpoints, "newest checkpoints to keep");
    f("log_every", c.log_every, "steps between log lines");
    f("device", c.device, "auto (a GPU where there is one), cpu or cuda");
    f("threads", c.threads, "CPU threads (0: one per core); does not change the result");
    f("matmul_precision", c.matmul_precision,
      "inputs of matrix products: float32, bfloat16, float8 (the MLP's in training, the others as "
      "auto), or auto (bfloat16 on a GPU, float32 on a CPU)");
  }
};

}  // namespace fairway
