#include "fairway/data/manifest.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <regex>

#include "fairway/base/check.h"
#include "fairway/io/atomic_file.h"

namespace fairway {

namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kFormat = "fairway-shards";
constexpr int kVersion = 1;

Json to_json(const ShardManifest::Split& split) {
  return {{"documents", split.documents},
          {"tokens", split.tokens},
          {"bytes", split.bytes},
          {"shards", split.shards}};
}

ShardManifest::Split split_from(const Json& json) {
  return {json.at("documents"), json.at("tokens"), json.at("bytes"), json.at("shards")};
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
  const std::string text = read_file(path);
  try {
    const Json json = Json::parse(text);
    require(json.at("format") == kFormat && json.at("version") == kVersion,
            "{}: not a version {} manifest of shards", path.string(), kVersion);
    ShardManifest m;
    m.set = json.at("set");
    const std::string hash = json.at("tokenizer_hash");
    const char* const end = hash.data() + hash.size();
    const auto [parsed, error] = std::from_chars(hash.data(), end, m.tokenizer_hash, 16);
    require(error == std::errc() && parsed == end, "{}: tokenizer_hash is not hexadecimal",
            path.string());
    m.vocab_size = json.at("vocab_size");
    m.bos = json.at("bos");
    m.empty_documents = json.at("empty_documents");
    m.train = split_from(json.at("train"));
    m.val = split_from(json.at("val"));
    return m;
  } catch (const Json::exception& e) {
    fail("{}: not a manifest of shards: {}", path.string(), e.what());
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
