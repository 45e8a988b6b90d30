// The score of a model on a token stream, in any of the three modes.
#pragma once

#include <functional>
#include <vector>

#include "fairway/comm/process_group.h"
#include "fairway/eval/bpb.h"
#include "fairway/eval/config.h"
#include "fairway/model/model.h"

namespace fairway {

struct Evaluation {
  Score score;
  std::vector<float> nll;  // of every target, in stream order
};

// How far an evaluation is: targets scored so far, of how many, and their mean nll. Of all ranks
// together, as far as one can tell from its own share.
struct EvalProgress {
  int64_t done = 0, total = 0;
  double nats_per_token = 0;
};

// Scores every target of the stream (of its first eval.max_docs documents, if that is not 0). `bos`
// starts a document. `bytes` may be null: then the score has no bpb. `ttt` counts in mode ttt only.
// Of eval.matmul_precision float8 alone counts here; what else there is, `device` and T say.
// Collective: the ranks of `group` share the work, each with the whole model and stream, and all of
// them get the result, which is the same bits for any number of them (but for the seconds).
// `progress` may be empty; it is called after each pass. Tokens and the model must agree: every
// token < V. Throws UsageError for an impossible configuration; Error for a stream without bos or
// targets, and for a non-finite nll.
template <class Device, class T>
Evaluation evaluate(Device& device, const ModelConfig& model, const Weights<const T>& weights,
                    const TokenStream& stream, uint16_t bos, const TokenBytes* bytes,
                    const EvalConfig& eval, const TttConfig& ttt, ProcessGroup& group,
                    const std::function<void(const EvalProgress&)>& progress);

}  // namespace fairway
