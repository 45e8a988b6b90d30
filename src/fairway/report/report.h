// What a run amounts to: its scores and what they cost, as a table for people and JSON for
// programs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/eval/bpb.h"

namespace fairway {

inline constexpr uint64_t kArtifactBudget = 16'000'000;  // bytes, SPEC §1

struct Report {
  struct Line {
    std::string model;  // "float" or "artifact"
    std::string mode;   // chunked, sliding, ttt
    Score score;
  };
  std::vector<Line> lines;

  int64_t train_steps = 0, train_tokens = 0;
  double train_seconds = 0, quantize_seconds = 0;
  uint64_t artifact_bytes = 0;  // of the model
  uint64_t source_bytes = 0;    // of the sources that evaluate it, compressed; 0: not known
};

// "NVIDIA H200, bfloat16", "2 × NVIDIA H200, float8": what computed a score, and in what.
std::string computed_by(const Score& score);

// A Markdown table, aligned so that it reads well in a terminal too, and three lines on cost.
std::string to_markdown(const Report& report);
std::string to_json(const Report& report);

// {"nats_per_token", "bpb", "tokens", "bytes", "seconds", "device", "ranks", "matmul_precision"};
// bpb and bytes are null without a tokenizer.
std::string to_json(const Score& score);
// Throws Error, naming `where`, if the text is not that.
Score score_from_json(std::string_view text, const std::string& where);

}  // namespace fairway
