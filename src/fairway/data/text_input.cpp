#include "fairway/data/text_input.h"

#include <glob.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <system_error>

#include "fairway/base/check.h"
#include "fairway/data/utf8.h"

namespace fairway {

namespace {

namespace fs = std::filesystem;

// Longest line or text file: SentencePiece needs about a hundred times as much memory for one text.
constexpr size_t kMaxDocumentBytes = size_t{64} << 20;

enum class TextKind { none, text, json_lines };

TextKind text_kind(fs::path path) {
  const auto last = path.extension();
  if (last == ".xz" || last == ".zst" || last == ".gz") path.replace_extension();
  const auto extension = path.extension();
  if (extension == ".txt") return TextKind::text;
  if (extension == ".jsonl") return TextKind::json_lines;
  return TextKind::none;
}

std::vector<fs::path> files_below(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error))
    if (it->is_regular_file() && text_kind(it->path()) != TextKind::none)
      files.push_back(it->path());
  require(!error, "{}: cannot read the directory: {}", directory.string(), error.message());
  require(!files.empty(), "{}: no .txt or .jsonl files (also .xz, .zst, .gz) below it",
          directory.string());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<fs::path> matches(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<fs::path> files(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  require(status == 0 && !files.empty(), "{}: no such file", pattern);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<fs::path> find_text_files(std::span<const std::string> inputs) {
  std::vector<fs::path> files;
  for (const std::string& input : inputs) {
    std::vector<fs::path> found{input};
    std::error_code ignored;
    if (fs::is_directory(input, ignored))
      found = files_below(input);
    else if (!fs::exists(input, ignored))
      found = matches(input);
    for (auto& file : found) {
      if (text_kind(file) == TextKind::none)
        usage_fail("{}: unknown kind of text; inputs are .txt or .jsonl, also as .xz, .zst or .gz",
                   file.string());
      files.push_back(std::move(file));
    }
  }
  return files;
}

TextBlocks::TextBlocks(fs::path file, std::unique_ptr<ByteSource> source, size_t block_bytes)
    : file_(std::move(file)),
      source_(std::move(source)),
      block_bytes_(std::min(block_bytes, kMaxDocumentBytes)) {}

bool TextBlocks::next(TextBlock& block) {
  if (ended_) return false;
  block = {};
  block.file = file_;
  block.json_lines = text_kind(file_) == TextKind::json_lines;
  block.first_line = line_;
  if (block.json_lines)
    next_lines(block);
  else
    next_text(block);
  return true;
}

// Appends up to block_bytes_; true if the file has ended.
bool TextBlocks::read(std::string& out) {
  const size_t before = out.size();
  out.resize(before + block_bytes_);
  const size_t n = source_->read(std::span(out).subspan(before));
  out.resize(before + n);
  ended_ = n < block_bytes_;
  require(out.size() <= kMaxDocumentBytes + block_bytes_,
          "{}:{}: a document of more than {} MiB; split it", file_.string(), line_,
          kMaxDocumentBytes >> 20);
  return ended_;
}

void TextBlocks::next_text(TextBlock& block) {
  while (!read(block.bytes)) {
  }
}

void TextBlocks::next_lines(TextBlock& block) {
  block.bytes = std::move(rest_);
  rest_.clear();
  size_t newline = std::string::npos;
  while (newline == std::string::npos) {
    const size_t searched = block.bytes.size();
    if (read(block.bytes)) return;
    newline = block.bytes.rfind('\n');
    if (newline != std::string::npos && newline < searched) newline = std::string::npos;
  }
  rest_.assign(block.bytes, newline + 1);
  block.bytes.resize(newline + 1);
  line_ += std::count(block.bytes.begin(), block.bytes.end(), '\n');
}

struct TextReader::Impl {
  std::vector<fs::path> files;
  size_t block_bytes;
  size_t file = 0;                   // the one being read
  std::optional<TextBlocks> blocks;  // of it
  int64_t finished_bytes = 0, total_bytes = 0;
};

TextReader::TextReader(std::vector<fs::path> files, size_t block_bytes)
    : impl_(std::make_unique<Impl>()) {
  impl_->files = std::move(files);
  impl_->block_bytes = block_bytes;
  for (const auto& file : impl_->files) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    require(!error, "{}: cannot read: {}", file.string(), error.message());
    impl_->total_bytes += static_cast<int64_t>(size);
  }
}

TextReader::~TextReader() = default;

bool TextReader::next(TextBlock& block) {
  Impl& r = *impl_;
  for (; r.file < r.files.size(); ++r.file) {
    if (!r.blocks) {
      const fs::path& file = r.files[r.file];
      r.blocks.emplace(file, open_byte_source(file), r.block_bytes);
    }
    if (r.blocks->next(block)) return true;
    r.finished_bytes += r.blocks->consumed();
    r.blocks.reset();
  }
  return false;
}

int64_t TextReader::bytes_read() const {
  return impl_->finished_bytes + (impl_->blocks ? impl_->blocks->consumed() : 0);
}

int64_t TextReader::bytes_total() const {
  return impl_->total_bytes;
}

namespace {

// A `\uD800`-like escape without its other half makes a JSON string that no UTF-8 can hold. Writes
// the escape of U+FFFD over each. `line` is JSON text.
void replace_lone_surrogates(std::string& line) {
  const auto unit = [&](size_t at) -> unsigned {  // the value of `\uXXXX` at `at`, or 0
    unsigned value = 0;
    if (at + 6 > line.size() || line[at] != '\\' || line[at + 1] != 'u') return 0;
    return std::sscanf(line.substr(at + 2, 4).c_str(), "%4x", &value) == 1 ? value : 0;
  };
  const auto high = [](unsigned u) { return u >= 0xD800 && u < 0xDC00; };
  const auto low = [](unsigned u) { return u >= 0xDC00 && u < 0xE000; };
  for (size_t i = 0; i + 1 < line.size(); ++i) {
    if (line[i] != '\\') continue;
    const unsigned u = unit(i);
    if (high(u) && low(unit(i + 6)))
      i += 11;
    else if (high(u) || low(u))
      line.replace(i, 6, "\\ufffd");
    else
      ++i;  // the escaped character is not the beginning of an escape
  }
}

class LineParser {
 public:
  LineParser(const TextBlock& block, const TextOptions& options)
      : block_(block), options_(options) {}

  std::string text(std::string_view line, int64_t number) {
    auto parsed = parse(line);
    std::string repaired;
    if (options_.invalid_utf8 == InvalidUtf8::replace &&
        (parsed.error() == simdjson::UTF8_ERROR || parsed.error() == simdjson::STRING_ERROR)) {
      repaired = replace_invalid_utf8(line);
      replace_lone_surrogates(repaired);
      parsed = parse(repaired);
    }
    if (parsed.error() == simdjson::UTF8_ERROR)
      bad(number,
          "byte {} of the line is not valid UTF-8 (--invalid-utf8 replace puts U+FFFD there)",
          find_invalid_utf8(line) + 1);
    if (parsed.error()) bad(number, "not valid JSON: {}", reason(parsed.error()));
    simdjson::dom::object object;
    if (parsed.get(object)) bad(number, "not a JSON object");
    simdjson::dom::element value;
    if (object.at_key(options_.field).get(value)) bad(number, "no field '{}'", options_.field);
    std::string_view text;
    if (value.get(text)) bad(number, "field '{}' is not a string", options_.field);
    return std::string(text);
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(int64_t number, fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}:{}: {}", block_.file.string(), number,
         fmt::format(format, std::forward<Args>(args)...));
  }

  static const char* reason(simdjson::error_code error) {
    switch (error) {
      case simdjson::STRING_ERROR:
        return "a bad escape in a string (--invalid-utf8 replace mends halves of surrogate pairs)";
      case simdjson::UNCLOSED_STRING:
        return "a string without its closing quote";
      case simdjson::UNESCAPED_CHARS:
        return "a control character in a string";
      case simdjson::DEPTH_ERROR:
        return "nested too deeply";
      default:
        return "something is missing, or stands where it may not";
    }
  }

  simdjson::simdjson_result<simdjson::dom::element> parse(std::string_view line) {
    return parser_.parse(line.data(), line.size());
  }

  const TextBlock& block_;
  const TextOptions& options_;
  simdjson::dom::parser parser_;
};

bool blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

}  // namespace

std::vector<std::string> parse_documents(const TextBlock& block, const TextOptions& options) {
  std::string_view bytes = block.bytes;
  if (!block.json_lines) {
    if (simdjson::validate_utf8(bytes.data(), bytes.size())) return {block.bytes};
    const size_t at = find_invalid_utf8(bytes);
    require(
        options.invalid_utf8 == InvalidUtf8::replace,
        "{}:{}: byte {} of the file is not valid UTF-8 (--invalid-utf8 replace puts U+FFFD there)",
        block.file.string(), 1 + std::count(bytes.begin(), bytes.begin() + at, '\n'), at + 1);
    return {replace_invalid_utf8(bytes)};
  }
  std::vector<std::string> documents;
  LineParser parser(block, options);
  constexpr std::string_view kByteOrderMark = "\uFEFF";
  if (block.first_line == 1 && bytes.starts_with(kByteOrderMark))
    bytes.remove_prefix(kByteOrderMark.size());
  for (int64_t number = block.first_line; !bytes.empty(); ++number) {
    const size_t end = std::min(bytes.find('\n'), bytes.size());
    const std::string_view line = bytes.substr(0, end);
    if (!blank(line)) documents.push_back(parser.text(line, number));
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  return documents;
}

}  // namespace fairway
