// Token shards (docs/formats.md): 256 little-endian int32 {20240520, 1, token count, 0…}, then that
// many uint16 tokens. A document may span two shards of a set.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fairway/io/atomic_file.h"
#include "fairway/io/file_lock.h"
#include "fairway/io/mapped_file.h"

namespace fairway {

inline constexpr int64_t kMaxShardTokens = 100'000'000;

// The tokens of a shard that is in memory: a part of `file`, which must be aligned to 2 bytes.
// Throws Error, naming `where` and the offset, on a wrong magic, version or size, and, when
// `vocab_size` > 0, on the first token ≥ vocab_size (which reads the whole file once).
std::span<const uint16_t> shard_tokens(std::span<const std::byte> file, const std::string& where,
                                       int vocab_size = 0);

// One shard, mapped read-only.
class ShardFile {
 public:
  // Throws Error as shard_tokens does, or if the file cannot be read.
  explicit ShardFile(const std::filesystem::path& path, int vocab_size = 0);

  std::span<const uint16_t> tokens() const { return tokens_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::span<const uint16_t> tokens_;
};

// The files that `patterns` (paths or globs) stand for: patterns in the order given, the matches of
// a glob sorted by name. Throws Error naming a pattern that matches nothing.
std::vector<std::filesystem::path> find_shards(std::span<const std::string> patterns);
std::vector<std::filesystem::path> find_shards(const std::string& pattern);

// Writes `<directory>/<stem>_000000.bin`, `…_000001.bin`, … The shards grow in a staging directory,
// `<directory>/.<stem>.building`, and appear under their names only in commit(); without it nothing
// is left behind. What a killed process left in the staging directory is deleted.
class ShardWriter {
 public:
  // `directory` must exist. `max_tokens`: where one shard ends and the next begins. Throws Error if
  // another process writes the same shards.
  ShardWriter(std::filesystem::path directory, std::string stem,
              int64_t max_tokens = kMaxShardTokens);
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;
  ~ShardWriter();

  void append(std::span<const uint16_t> tokens);
  int64_t tokens() const { return total_; }

  // Finishes the last shard: all are on disk then, still in the staging directory. No shard is
  // written for no tokens. Returns the file names, in order.
  const std::vector<std::string>& finish();

  // finish(), then all move into place. Returns the file names.
  std::vector<std::string> commit();

 private:
  void finish_shard();

  std::filesystem::path directory_, staging_;
  std::string stem_;
  int64_t max_tokens_, total_ = 0, in_shard_ = 0;
  std::optional<DirectoryLock> lock_;  // of staging_
  std::unique_ptr<AtomicFile> shard_;
  std::vector<std::string> names_;
};

}  // namespace fairway
