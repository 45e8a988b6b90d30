// Scoring a model file on shard files, for `fairway eval` and the stages of `fairway run`.
#pragma once

#include <string>
#include <vector>

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"
#include "fairway/eval/evaluate.h"

namespace fairway {

struct EvalJob {
  std::string model;              // .safetensors or .fairway
  std::vector<std::string> data;  // shards: files or globs, in this order
  std::string tokenizer;          // empty: no bits per byte
  DeviceChoice device;            // for_rank makes it each rank's own; the precision is eval's
  EvalConfig eval;
  TttConfig ttt;
};

// Checks that model, shards and tokenizer speak of the same tokens, then evaluates, with a status
// line on a terminal. Collective; every rank reads the files and gets the result. Throws Error
// naming the file that does not fit.
Evaluation evaluate(const EvalJob& job, ProcessGroup& group);

}  // namespace fairway
