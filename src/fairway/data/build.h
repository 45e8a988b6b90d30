// Text files → shards and their manifest: `fairway data build`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "fairway/comm/process_group.h"
#include "fairway/data/manifest.h"
#include "fairway/data/shard.h"
#include "fairway/data/text_input.h"
#include "fairway/data/tokenizer.h"

namespace fairway {

struct BuildOptions {
  std::vector<std::string> inputs;  // as find_text_files takes them
  std::filesystem::path out;        // directory, made if it does not exist
  std::string set = "data";         // shards are <set>_train_000000.bin, <set>_val_000000.bin, …
  int64_t val_docs = 0;             // the first so many documents are validation
  TextOptions text;
  bool overwrite = false;  // replace a set of that name
  int threads = 0;         // of each rank; 0: all cores, or its share of them
  int64_t shard_tokens = kMaxShardTokens;
  std::function<bool()> stop;  // asked now and then: true gives up and leaves nothing behind
};

struct BuildProgress {
  int64_t documents = 0, tokens = 0;
  int64_t text_bytes = 0;                    // UTF-8 text tokenized
  int64_t input_bytes = 0, input_total = 0;  // of the files, as they lie on disk
};

// Documents keep the order of the inputs; the result does not depend on the number of threads or
// ranks. Memory is bounded by threads × block, not by the input. If anything fails, nothing is left
// behind, not even a directory that was made.
//
// Collective: every rank reads the input (the same files) and tokenizes its part of it; rank 0
// writes, hears of the progress, and returns what was written, the others an empty manifest when
// all is in place. Errors are rank 0's, wherever they arose: the other ranks wait to be ended by
// it.
ShardManifest build_shards(const BuildOptions& options, const Tokenizer& tokenizer,
                           ProcessGroup& group,
                           const std::function<void(const BuildProgress&)>& progress = {});
// In one process alone.
inline ShardManifest build_shards(const BuildOptions& options, const Tokenizer& tokenizer) {
  return build_shards(options, tokenizer, *make_single_process());
}

}  // namespace fairway
