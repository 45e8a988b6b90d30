// Training batches from shards, as SPEC §2 "Packing (training)" says, read ahead on another thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace fairway {

struct PackedBatch {
  std::vector<int32_t> inputs;      // [n]
  std::vector<int32_t> targets;     // [n] the token after each input
  std::vector<int32_t> cu_seqlens;  // segment starts, then n up to a multiple of the bucket
  bool operator==(const PackedBatch&) const = default;
};

// Where the search for the next batch begins; the same on every rank. {} is the beginning.
struct LoaderPosition {
  int64_t epoch = 0;   // how often the set has been read to its end
  int64_t shard = 0;   // index into the set
  int64_t cursor = 0;  // token of that shard; before the shard's first bos means that bos
  bool operator==(const LoaderPosition&) const = default;
};

struct LoaderOptions {
  int64_t tokens = 0;  // n: inputs of one rank in one micro-step, batch_tokens / (P · accumulation)
  int64_t max_doc_len = 0;  // longest segment; 0: no limit
  int32_t bos = 1;
  int rank = 0, world = 1;  // r of P
  int vocab_size = 0;       // when known, every token is checked against it
  int64_t bucket = 64;      // cu_seqlens_bucket
};

class TrainLoader {
 public:
  // Checks every shard's header, and that the first batch exists. Throws Error (file, offset,
  // remedy) on a bad shard, on a set without bos, and on one in which no shard holds the P(n+1)
  // tokens of a step.
  TrainLoader(std::vector<std::filesystem::path> shards, const LoaderOptions& options);
  ~TrainLoader();

  // The next batch of this rank. Rethrows what went wrong while reading ahead. Memory does not
  // depend on the number of shards: the current and the next one are mapped.
  PackedBatch next();

  // Behind the batch that next() returned last; seek(position()) on any loader over the same shards
  // with the same P and n continues with exactly the same batches. Never waits, never throws.
  LoaderPosition position() const;
  void seek(const LoaderPosition& position);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairway
