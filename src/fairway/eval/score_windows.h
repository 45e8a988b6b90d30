// Scores a plan of independent windows with the base model: the modes `chunked` and `sliding`.
#pragma once

#include <functional>
#include <span>

#include "fairway/data/stream.h"
#include "fairway/eval/plan.h"
#include "fairway/model/model.h"

namespace fairway {

// Called after each pass with the number of targets scored since the last call and the sum of their
// nll.
using ScoreProgress = std::function<void(int64_t targets, double nll)>;

// Writes the nll of every target of `windows` to nll[target]. Windows share packed buffers of
// at most `pass_tokens` rows, 0: as many as suit the device; the result is the same bits for any
// `pass_tokens` and thread count.
// `mlp`: as Pass has it.
template <class Device, class T>
void score_windows(Device& device, const Network& net, const Weights<const T>& weights,
                   const TokenStream& stream, std::span<const Window> windows, int64_t pass_tokens,
                   E4m3Mlp mlp, std::span<float> nll, const ScoreProgress& progress);

}  // namespace fairway
