// The memory of one rank.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fairway/model/config.h"
#include "fairway/optim/config.h"
#include "fairway/train/config.h"

namespace fairway {

using MemoryByName = std::vector<std::pair<std::string, int64_t>>;  // bytes, largest first

// Matrices of a bank of `matrices` that the rank with the most owns.
int64_t slice_of(int64_t matrices, int ranks);

// Whether activations and the matrices that products read are bfloat16, as on a GPU: unless the
// recipe asks for float32, or for a CPU.
bool computes_in_bfloat16(const TrainConfig& train);

// What the Trainer of rank 0 (no rank owns more) takes: the Trainer's own dry run, but for Muon's
// momentum and the banks' part of the moving average, of which a rank keeps its slices. Not
// counted: what the device's runtime, matrix and exchange libraries keep for themselves.
MemoryByName rank_memory(const ModelConfig& model, const OptimConfig& optim,
                         const TrainConfig& train, int ranks);

}  // namespace fairway
