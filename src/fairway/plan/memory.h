// The memory of one rank.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fairway/model/config.h"
#include "fairway/train/config.h"

namespace fairway {

using MemoryByName = std::vector<std::pair<std::string, int64_t>>;  // bytes, largest first

// Whether activations and the matrices that products read are bfloat16, as on a GPU: unless the
// recipe asks for float32, or for a CPU.
bool computes_in_bfloat16(const TrainConfig& train);

// What the Trainer of rank 0 takes (no rank owns more): its own dry run. Not counted: what the
// device's runtime, matrix and exchange libraries keep for themselves, and the ops' scratch memory
// there (Workspace).
MemoryByName rank_memory(const ModelConfig& model, const TrainConfig& train, int ranks);

}  // namespace fairway
