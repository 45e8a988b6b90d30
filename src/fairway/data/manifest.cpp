#include "fairway/data/manifest.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <regex>

#include "fairway/base/check.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/mapped_file.h"

namespace fairway {

namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kFormat = "fairway-shards";
constexpr int kVersion = 1;
// A parsed manifest takes about forty times the memory of its text; this is room for 30,000 shards.
constexpr size_t kMaxManifestBytes = size_t{1} << 20;

Json to_json(const ShardManifest::Split& split) {
  return {{"documents", split.documents},
          {"tokens", split.tokens},
          {"bytes", split.bytes},
          {"shards", split.shards}};
}

int64_t count_from(const Json& json, const char* key, int64_t most) {
  const Json& value = json.at(key);
  // Numbers that only fit int64_t are unsigned to the parser.
  require(value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(most),
          "'{}' is not a number between 0 and {}", key, most);
  return value.get<int64_t>();
}

ShardManifest::Split split_from(const Json& json) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  return {count_from(json, "documents", kMost), count_from(json, "tokens", kMost),
          count_from(json, "bytes", kMost), json.at("shards")};
}

// "data" of "data_train_000012.bin"; empty for other names.
std::string set_of(const std::string& name) {
  static const std::regex pattern("(.+)_(train|val)_[0-9]{6,}\\.bin");
  std::smatch match;
  return std::regex_match(name, match, pattern) ? match[1].str() : "";
}

}  // namespace

void write_manifest(const std::filesystem::path& path, const ShardManifest& m) {
  const Json json{{"format", kFormat},
                  {"version", kVersion},
                  {"set", m.set},
                  {"tokenizer_hash", fmt::format("{:016x}", m.tokenizer_hash)},
                  {"vocab_size", m.vocab_size},
                  {"bos", m.bos},
                  {"empty_documents", m.empty_documents},
                  {"train", to_json(m.train)},
                  {"val", to_json(m.val)}};
  write_file(path, json.dump(2) + "\n");
}

ShardManifest read_manifest(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return parse_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path.string());
}

ShardManifest parse_manifest(std::string_view text, const std::string& where) {
  require(text.size() <= kMaxManifestBytes, "{}: not a manifest of shards: it has {} bytes", where,
          text.size());
  // Every level of nesting costs more memory than its bracket should.
  const auto shallow = [&](int depth, Json::parse_event_t, const Json&) {
    require(depth <= 8, "{}: not a manifest of shards: nested too deeply", where);
    return true;
  };
  const Json json = Json::parse(text, shallow, /*allow_exceptions=*/false);
  require(!json.is_discarded(), "{}: not a manifest of shards: not valid JSON", where);
  try {
    require(json.at("format") == kFormat && json.at("version") == kVersion, "not version {}",
            kVersion);
    ShardManifest m;
    m.set = json.at("set");
    const std::string hash = json.at("tokenizer_hash");
    const char* const end = hash.data() + hash.size();
    const auto [parsed, error] = std::from_chars(hash.data(), end, m.tokenizer_hash, 16);
    require(error == std::errc() && parsed == end, "tokenizer_hash is not hexadecimal");
    m.vocab_size = static_cast<int>(count_from(json, "vocab_size", 65536));
    m.bos = static_cast<int>(count_from(json, "bos", 65535));
    m.empty_documents = count_from(json, "empty_documents", std::numeric_limits<int64_t>::max());
    m.train = split_from(json.at("train"));
    m.val = split_from(json.at("val"));
    return m;
  } catch (const Json::exception& e) {
    fail("{}: not a manifest of shards: {}", where, e.what());
  } catch (const Error& e) {
    fail("{}: not a manifest of shards: {}", where, e.what());
  }
}

std::optional<ShardManifest> find_manifest(const std::filesystem::path& shard) {
  const std::string name = shard.filename().string(), set = set_of(name);
  const auto path = shard.parent_path() / (set + ".json");
  std::error_code ignored;
  if (set.empty() || !std::filesystem::exists(path, ignored)) return std::nullopt;
  ShardManifest m = read_manifest(path);
  const auto lists = [&](const auto& split) {
    return std::find(split.shards.begin(), split.shards.end(), name) != split.shards.end();
  };
  if (!lists(m.train) && !lists(m.val)) return std::nullopt;
  return m;
}

void check_tokenizer_matches(std::span<const std::filesystem::path> shards,
                             const Tokenizer& tokenizer) {
  for (const auto& shard : shards) {
    const auto manifest = find_manifest(shard);
    require(!manifest || manifest->tokenizer_hash == tokenizer.hash(),
            "{}: built with another tokenizer (hash {:016x}, {} pieces) than the one given (hash "
            "{:016x}, {} pieces); give that one, or build the shards again",
            shard.string(), manifest ? manifest->tokenizer_hash : 0,
            manifest ? manifest->vocab_size : 0, tokenizer.hash(), tokenizer.vocab_size());
  }
}

}  // namespace fairway
