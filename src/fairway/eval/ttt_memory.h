// What the documents of test-time training own on a device, and how many of them it has room for.
#pragma once

#include <cstdint>

#include "fairway/base/arena.h"
#include "fairway/comm/process_group.h"
#include "fairway/eval/config.h"
#include "fairway/eval/plan.h"
#include "fairway/model/lora.h"
#include "fairway/model/lora_copies.h"
#include "fairway/model/model.h"

namespace fairway {

// Of the documents of one batch: document b's begin at b·stride, its copies at b·copies->stride().
struct Learners {
  Learners() = default;
  // Lays them out in `arena` (dry or real). `copies`: null where none are read. `config` says
  // whether there are first moments.
  Learners(Arena& arena, const LoraLayout& layout, const LoraCopies* copies, int64_t docs,
           const TttConfig& config);

  int64_t stride = 0;  // elements from one document's buffer to the next one's: aligned
  float *adapters = nullptr, *gradients = nullptr, *second = nullptr, *first = nullptr;
  bf16* copied = nullptr;
};

// What test-time training of `docs` documents with windows of `tokens` tokens in all takes of the
// device's memory, the weights and the ops' own scratch aside. `mlp`: as Pass has it.
template <class Device, class T>
int64_t ttt_bytes(const Network& net, const TttConfig& config, const LoraLayout& layout,
                  const LoraCopies* copies, E4m3Mlp mlp, int64_t docs, int64_t tokens);

// The batches of config.batch_docs documents and `pass_tokens` tokens, where these are not 0;
// otherwise as large as suits the device, if all ranks have room for them beside what they hold
// now. Collective.
template <class Device, class T>
BatchLimits ttt_limits(const Device& device, const Network& net, const TttConfig& config,
                       const LoraLayout& layout, const LoraCopies* copies, E4m3Mlp mlp,
                       int64_t pass_tokens, ProcessGroup& group);

}  // namespace fairway
