// From per-token losses to the score. SPEC §1.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "fairway/data/stream.h"
#include "fairway/data/token_bytes.h"

namespace fairway {

struct Score {
  double nats_per_token = 0;
  std::optional<double> bpb;  // bits per byte: total nats / total bytes / ln 2; empty without bytes
  int64_t tokens = 0;         // targets scored
  std::optional<int64_t> bytes;
  double seconds = 0;
  // What computed it: Device::name() of the first of `ranks` ranks, and what its products read
  // (float32, bfloat16, or float8: the MLP's).
  std::string device, matmul_precision;
  int ranks = 1;
};

// The score of targets 0 … nll.size() − 1 of the stream, summed in float64 in stream order. `bytes`
// may be null: then bpb and bytes are empty. nll must not be empty; `seconds` and what follows stay
// as they are.
Score score(std::span<const float> nll, const TokenStream& stream, const TokenBytes* bytes);

}  // namespace fairway
