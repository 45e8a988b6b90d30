// Scoring a model file on shard files, for `fairway eval` and the stages of `fairway run`.
#pragma once

#include <string>
#include <vector>

#include "fairway/device/choose.h"
#include "fairway/eval/evaluate.h"

namespace fairway {

struct EvalJob {
  std::string model;              // .safetensors or .fairway
  std::vector<std::string> data;  // shards: files or globs, in this order
  std::string tokenizer;          // empty: no bits per byte
  DeviceChoice device;
  EvalConfig eval;
  TttConfig ttt;
};

// Checks that model, shards and tokenizer speak of the same tokens, then evaluates, with a status
// line on a terminal. Throws Error naming the file that does not fit.
Evaluation evaluate(const EvalJob& job);

}  // namespace fairway
