// Documents from files: .txt (one document a file) and .jsonl (one a line, in a field), each also
// as .xz, .zst or .gz. Everything is streamed; nothing larger than one block and one document is
// held.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fairway/data/byte_source.h"

namespace fairway {

// What to do about bytes that are not UTF-8: stop and name the place, or put U+FFFD in their stead.
enum class InvalidUtf8 { error, replace };
inline constexpr std::array<std::string_view, 2> names(InvalidUtf8) {
  return {"error", "replace"};
}

struct TextOptions {
  std::string field = "text";  // of a JSON line
  InvalidUtf8 invalid_utf8 = InvalidUtf8::error;
};

// Files as given; a directory stands for all supported files below it, sorted; globs are expanded
// and sorted. Throws Error for what does not exist and UsageError for an unsupported extension.
std::vector<std::filesystem::path> find_text_files(std::span<const std::string> inputs);

// A run of consecutive documents, still in their file's form.
struct TextBlock {
  std::filesystem::path file;
  bool json_lines = false;
  int64_t first_line = 1;
  std::string bytes;  // whole lines, or one whole text file
};

// Cuts one file into blocks of about `block_bytes`; longer lines and text files stay whole.
class TextBlocks {
 public:
  // `source` gives the text of `file`, whose name says of which kind it is.
  TextBlocks(std::filesystem::path file, std::unique_ptr<ByteSource> source, size_t block_bytes);
  // The next block; false at the end. Throws Error naming the file on a damaged one and on a
  // document that is too long.
  bool next(TextBlock& block);
  // Bytes of the file read so far.
  int64_t consumed() const { return source_->consumed(); }

 private:
  bool read(std::string& out);
  void next_text(TextBlock& block);
  void next_lines(TextBlock& block);

  std::filesystem::path file_;
  std::unique_ptr<ByteSource> source_;
  size_t block_bytes_;
  bool ended_ = false;
  std::string rest_;  // of the last block: the beginning of a line
  int64_t line_ = 1;
};

// Reads and decompresses; throws Error naming the file on a damaged or truncated one.
class TextReader {
 public:
  explicit TextReader(std::vector<std::filesystem::path> files,
                      size_t block_bytes = size_t{1} << 20);
  ~TextReader();
  // The next block in file order; false at the end.
  bool next(TextBlock& block);
  // Bytes of input read so far, compressed as they are, and of all files together.
  int64_t bytes_read() const;
  int64_t bytes_total() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The documents of a block, in order, empty ones included. May be called from any thread.
// Throws Error "file:line: …" on invalid JSON, a missing field, a text that is no string, or
// invalid UTF-8.
std::vector<std::string> parse_documents(const TextBlock& block, const TextOptions& options);

}  // namespace fairway
