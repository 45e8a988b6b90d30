// Training batches from shards, as SPEC §2 "Packing (training)" says, read ahead on another thread.
//
// A step's M micro-batches are shared out over P ranks in rounds: rank r takes the micro-batches r,
// r + P, …; where P does not divide M, the last round has fewer. What a step sees does not depend
// on P, but for what is dropped at a shard's end: what the rest of it is too short for.
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

// Where the search for the next batch begins; between steps the same on every rank, whatever their
// number. {} is the beginning.
struct LoaderPosition {
  int64_t epoch = 0;   // how often the set has been read to its end
  int64_t shard = 0;   // index into the set
  int64_t cursor = 0;  // token of that shard; before the shard's first bos means that bos
  bool operator==(const LoaderPosition&) const = default;
};

struct LoaderOptions {
  int64_t tokens = 0;       // n: inputs of one micro-batch, batch_tokens / M
  int64_t max_doc_len = 0;  // longest segment; 0: no limit
  int32_t bos = 1;
  int rank = 0, world = 1;  // r of P
  int micro_steps = 0;      // M, at least P; 0: P
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

  // Behind the batch that next() returned last, and behind the step if it was the last one of this
  // rank in it. Between steps, seek(position()) on any loader over the same shards with the same n
  // and M continues with exactly the same steps. Never waits, never throws.
  LoaderPosition position() const;
  void seek(const LoaderPosition& position);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fairway
