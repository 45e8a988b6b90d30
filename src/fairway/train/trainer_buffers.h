// The memory of a training run on one rank, laid out at once.
#pragma once

#include <cstdint>

#include "fairway/base/arena.h"
#include "fairway/model/model.h"
#include "fairway/optim/optimizer.h"
#include "fairway/train/config.h"

namespace fairway {

// Sums over a step, kept in device memory until its end.
struct StepSums {
  double nll = 0;      // of the tokens of its micro-batches
  double squares = 0;  // of its gradient
};

// T: the element type of activations and of the matrices that products read (model/model.h).
template <class T>
struct TrainerBuffers {
  Tensor<float> weights, gradients;  // [flat]
  Tensor<T> matrices;                // the matrices rounded to T; null where T is float
  OptimState state;                  // of the rank's shard
  // Of one micro-batch of `rows` tokens.
  Tensor<int32_t> inputs, targets;  // [rows]
  Tensor<int32_t> cu_seqlens;       // room for the largest; a batch uses the beginning
  Tensor<float> nll, d_nll;         // [rows]
  StepSums* sums = nullptr;
  Acts<T> acts_plain, acts_looped;  // in the same memory
  Tensor<std::byte> scratch;
};

// From a dry arena: what all of it takes, by name, without taking it. `mlp`: as take_acts wants
// it, for what `train` asks for.
template <class T>
TrainerBuffers<T> take_trainer_buffers(const ModelConfig& model, const TrainConfig& train,
                                       const Shard& shard, E4m3Mlp mlp, Arena& arena);

}  // namespace fairway
