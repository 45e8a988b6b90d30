#include "fairway/data/shard.h"

#include <glob.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <system_error>

#include "fairway/base/check.h"
#include "fairway/io/write_error.h"

namespace fairway {

namespace {

static_assert(std::endian::native == std::endian::little, "shards are mapped as they lie on disk");

constexpr int32_t kMagic = 20240520;
constexpr int32_t kVersion = 1;
constexpr size_t kHeaderInts = 256;
constexpr size_t kHeaderBytes = kHeaderInts * sizeof(int32_t);

using Header = std::array<int32_t, kHeaderInts>;

// The token count, once everything the file claims has been checked against what it is.
size_t checked_count(std::span<const std::byte> bytes, const std::string& where) {
  require(
      bytes.size() >= kHeaderBytes,
      "{}: offset 0: {} bytes cannot hold the {}-byte header of a shard; the file is cut short or "
      "not a shard",
      where, bytes.size(), kHeaderBytes);
  Header header;
  std::memcpy(header.data(), bytes.data(), kHeaderBytes);
  require(header[0] == kMagic, "{}: offset 0: magic number {} instead of {}; not a token shard",
          where, header[0], kMagic);
  require(header[1] == kVersion,
          "{}: offset 4: shard format version {}; this program reads version {}", where, header[1],
          kVersion);
  require(header[2] >= 0 && header[2] <= kMaxShardTokens,
          "{}: offset 8: token count {} is outside 0 … {}; build the shard again", where, header[2],
          kMaxShardTokens);
  for (size_t i = 3; i < kHeaderInts; ++i)
    require(header[i] == 0, "{}: offset {}: header word {} is {} instead of 0; the file is damaged",
            where, 4 * i, i, header[i]);
  const auto count = static_cast<size_t>(header[2]);
  const size_t expected = kHeaderBytes + count * sizeof(uint16_t);
  require(
      bytes.size() == expected,
      "{}: offset {}: the header promises {} tokens ({} bytes) but the file has {} bytes: it is {}",
      where, std::min(bytes.size(), expected), count, expected, bytes.size(),
      bytes.size() < expected ? "cut short" : "too long");
  return count;
}

// Index of the first token ≥ limit, or tokens.size().
size_t find_at_least(std::span<const uint16_t> tokens, uint32_t limit) {
  // A maximum over a piece vectorises; the search inside the offending piece need not.
  constexpr size_t kPiece = 4096;
  for (size_t begin = 0; begin < tokens.size(); begin += kPiece) {
    const auto piece = tokens.subspan(begin, std::min(kPiece, tokens.size() - begin));
    uint16_t largest = 0;
    for (const uint16_t t : piece) largest = std::max(largest, t);
    if (largest < limit) continue;
    return begin + static_cast<size_t>(std::find_if(piece.begin(), piece.end(),
                                                    [=](uint16_t t) { return t >= limit; }) -
                                       piece.begin());
  }
  return tokens.size();
}

}  // namespace

std::span<const uint16_t> shard_tokens(std::span<const std::byte> file, const std::string& where,
                                       int vocab_size) {
  const size_t count = checked_count(file, where);
  const std::span tokens(reinterpret_cast<const uint16_t*>(file.data() + kHeaderBytes), count);
  if (vocab_size <= 0 || vocab_size > 65535) return tokens;
  const size_t bad = find_at_least(tokens, static_cast<uint32_t>(vocab_size));
  require(
      bad == count,
      "{}: offset {}: token {} is {}, outside the vocabulary of {}; were these shards built with "
      "another tokenizer?",
      where, kHeaderBytes + bad * sizeof(uint16_t), bad, bad < count ? tokens[bad] : 0, vocab_size);
  return tokens;
}

ShardFile::ShardFile(const std::filesystem::path& path, int vocab_size)
    : file_(path), tokens_(shard_tokens(file_.bytes(), path.string(), vocab_size)) {}

std::vector<std::filesystem::path> find_shards(const std::string& pattern) {
  if (std::error_code ignored; std::filesystem::is_regular_file(pattern, ignored)) return {pattern};
  glob_t found{};
  const int status = ::glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::filesystem::path> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  require(status == 0 && !paths.empty(),
          "{}: no such shard; name .bin files or a glob that matches some", pattern);
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<std::filesystem::path> find_shards(std::span<const std::string> patterns) {
  std::vector<std::filesystem::path> paths;
  for (const std::string& pattern : patterns)
    for (auto& path : find_shards(pattern)) paths.push_back(std::move(path));
  return paths;
}

ShardWriter::ShardWriter(std::filesystem::path directory, std::string stem, int64_t max_tokens)
    : directory_(std::move(directory)), stem_(std::move(stem)), max_tokens_(max_tokens) {
  check(max_tokens_ > 0 && max_tokens_ <= kMaxShardTokens, "ShardWriter: max_tokens");
  staging_ = directory_ / fmt::format(".{}.building", stem_);
  lock_.emplace(staging_);
  std::error_code ignored;
  for (const auto& left : std::filesystem::directory_iterator(staging_, ignored))
    if (left.path().filename() != ".lock") std::filesystem::remove(left.path(), ignored);
}

ShardWriter::~ShardWriter() {
  shard_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(staging_, ignored);
}

void ShardWriter::append(std::span<const uint16_t> tokens) {
  while (!tokens.empty()) {
    if (!shard_) {
      names_.push_back(fmt::format("{}_{:06}.bin", stem_, names_.size()));
      shard_ = std::make_unique<AtomicFile>(staging_ / names_.back());
      shard_->write_value(Header{});
    }
    const auto piece =
        tokens.first(std::min(tokens.size(), static_cast<size_t>(max_tokens_ - in_shard_)));
    shard_->write(std::as_bytes(piece));
    in_shard_ += static_cast<int64_t>(piece.size());
    total_ += static_cast<int64_t>(piece.size());
    tokens = tokens.subspan(piece.size());
    if (in_shard_ == max_tokens_) finish_shard();
  }
}

void ShardWriter::finish_shard() {
  const std::array<int32_t, 3> head{kMagic, kVersion, static_cast<int32_t>(in_shard_)};
  shard_->write_at(0, std::as_bytes(std::span(head)));
  shard_->commit();
  shard_.reset();
  in_shard_ = 0;
}

const std::vector<std::string>& ShardWriter::finish() {
  if (shard_) finish_shard();
  return names_;
}

std::vector<std::string> ShardWriter::commit() {
  finish();
  for (const std::string& name : names_)
    if (std::error_code error;
        std::filesystem::rename(staging_ / name, directory_ / name, error), error)
      write_failed(directory_ / name, "put the finished shard in place", error.value());
  return names_;
}

}  // namespace fairway
