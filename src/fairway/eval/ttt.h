// Test-time training: every document is scored chunk by chunk, and its own adapters learn from each
// chunk after it has been scored. SPEC §6.
#pragma once

#include <cstdint>
#include <span>

#include "fairway/comm/process_group.h"
#include "fairway/eval/config.h"
#include "fairway/eval/score_windows.h"

namespace fairway {

// Writes the nll of targets of `documents` to nll[target]: of each at one of the ranks, all of
// which call this with the same documents. `documents[i]` starts with the adapters of document
// index i. A document's scores are the same bits whatever is scored beside it. Memory: what the
// documents of one batch own, and one pass (ttt_memory.h); `pass_tokens` is the most tokens of one,
// 0: as many as suit the device. `mlp`: as Pass has it. Collective.
template <class Device, class T>
void score_ttt(Device& device, const Network& net, const Weights<const T>& weights,
               const TokenStream& stream, std::span<const Document> documents,
               const TttConfig& config, int64_t pass_tokens, E4m3Mlp mlp, ProcessGroup& group,
               std::span<float> nll, const ScoreProgress& progress);

}  // namespace fairway
