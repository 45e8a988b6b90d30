// One optimizer step: Muon on the matrix banks, AdamW on everything else, then the moving average;
// each rank on its own shard (optim/sharding.h).
#pragma once

#include <cstdint>

#include "fairway/base/arena.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"
#include "fairway/model/weights.h"
#include "fairway/optim/config.h"
#include "fairway/optim/sharding.h"

namespace fairway {

// Everything that a step carries over to the next one, besides the weights, of one rank's shard:
// `banks` elements of it belong to Muon, the rest to AdamW.
struct OptimState {
  Tensor<float> momentum;        // [banks] Muon's m
  Tensor<float> adam_m, adam_v;  // [rest]
  Tensor<float> ema;             // [banks + rest] moving average of the weights
};

// f(name, tensor) for each buffer of the state.
template <class F>
void for_each(const OptimState& state, F&& f) {
  f("momentum", state.momentum);
  f("adam_m", state.adam_m);
  f("adam_v", state.adam_v);
  f("ema", state.ema);
}

OptimState take_optim_state(const Shard& shard, Arena& arena);

// Bytes of scratch that optimizer_step needs.
size_t optim_scratch_bytes(const Shard& shard);

// `step` counts finished steps: 0 for the first. Learning rates are the configured ones times
// `lr_factor`. Overwrites weights (flat) and state, and destroys the gradients (flat), which come
// in clipped and on their way over the ranks: after `sharding.start_reduce`. The moving average
// must hold the initial weights before the first step. Every rank ends with the same weights.
template <class Device>
void optimizer_step(Device& device, const ModelConfig& model, const OptimConfig& config,
                    int64_t step, double lr_factor, float* weights, float* gradients,
                    const OptimState& state, Sharding& sharding, Arena scratch);

}  // namespace fairway
