// What the documents of test-time training own on a device, and how many of them it has room for.
#pragma once

#include <cstdint>

#include "fairway/base/arena.h"
#include "fairway/comm/process_group.h"
#include "fairway/eval/config.h"
#include "fairway/model/lora.h"
#include "fairway/model/lora_copies.h"
#include "fairway/model/model.h"

namespace fairway {

// Of the documents of one batch: document b's begin at b·stride, its copies at b·copies->stride().
// T: the type of gradients, which is that of activations.
template <class T>
struct Learners {
  Learners() = default;
  // Lays them out in `arena` (dry or real). `copies`: null where none are read. `config` says
  // whether there are first moments.
  Learners(Arena& arena, const LoraLayout& layout, const LoraCopies* copies, int64_t docs,
           const TttConfig& config);

  int64_t stride = 0;  // elements from one document's buffer to the next one's: aligned
  float *adapters = nullptr, *second = nullptr, *first = nullptr;
  T* gradients = nullptr;
  bf16* copied = nullptr;
};

// What test-time training of `docs` documents with windows of `tokens` tokens in all takes of the
// device's memory, the weights and the ops' own scratch aside. `mlp`: as Pass has it.
template <class Device, class T>
int64_t ttt_bytes(const Network& net, const TttConfig& config, const LoraLayout& layout,
                  const LoraCopies* copies, E4m3Mlp mlp, int64_t docs, int64_t tokens);

// The most documents of a batch, and tokens of their longest windows together.
struct TttLimits {
  int64_t docs = 0, tokens = 0;
};
// What `room` bytes hold of both, within config.batch_docs and `pass_tokens` where these are not 0
// and what suits the device where they are: one of each if it holds less.
template <class Device, class T>
TttLimits ttt_limits(const Network& net, const TttConfig& config, const LoraLayout& layout,
                     const LoraCopies* copies, E4m3Mlp mlp, int64_t pass_tokens, double room);

// The bytes that every rank's device has for it beside what they hold now; a CPU's memory is not
// counted. Collective.
template <class Device>
double ttt_room(const Device& device, ProcessGroup& group);

}  // namespace fairway
