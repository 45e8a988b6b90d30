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
