#include "fairway/data/build.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fairway/data/describe.h"
#include "fairway/data/stream.h"
#include "sample_text.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

struct Corpus {
  TempDir dir;
  std::vector<std::string> documents = sample_documents(300);
  Tokenizer tokenizer = Tokenizer::bytes();

  Corpus() {
    std::string lines;
    for (size_t i = 0; i < documents.size(); ++i) {
      if (i % 50 == 7) documents[i].clear();
      lines += nlohmann::json{{"text", documents[i]}}.dump() + "\n";
    }
    dir.write("text.jsonl", lines);
  }

  BuildOptions options() const {
    BuildOptions o;
    o.inputs = {(dir / "text.jsonl").string()};
    o.out = dir / "out";
    o.set = "s";
    o.val_docs = 10;
    return o;
  }

  // bos + tokens of the documents that are not empty, [begin, end) of them.
  std::vector<int32_t> expected(size_t begin, size_t end) const {
    std::vector<int32_t> tokens;
    size_t number = 0;
    for (const auto& text : documents) {
      if (text.empty()) continue;
      if (number >= begin && number < end) {
        tokens.push_back(1);
        for (const uint16_t t : tokenizer.encode(text)) tokens.push_back(t);
      }
      ++number;
    }
    return tokens;
  }

  std::vector<int32_t> stream(const std::string& glob) const {
    const TokenStream s(find_shards((dir / "out" / glob).string()), 260);
    std::vector<int32_t> out(static_cast<size_t>(s.size()));
    s.copy(0, s.size(), out.data());
    return out;
  }
};

TEST(Build, WritesDocumentsInOrderAndTheManifest) {
  const Corpus corpus;
  const ShardManifest m = build_shards(corpus.options(), corpus.tokenizer);
  EXPECT_EQ(corpus.stream("s_val_*.bin"), corpus.expected(0, 10));
  EXPECT_EQ(corpus.stream("s_train_*.bin"), corpus.expected(10, 1000));
  EXPECT_EQ(m.empty_documents, 6);
  EXPECT_EQ(m.val.documents, 10);
  EXPECT_EQ(m.train.documents, 284);
  int64_t bytes = 0;
  for (const auto& text : corpus.documents) bytes += static_cast<int64_t>(text.size());
  EXPECT_EQ(m.train.bytes + m.val.bytes, bytes);
  const ShardManifest read = read_manifest(corpus.dir / "out/s.json");
  EXPECT_EQ(read.tokenizer_hash, corpus.tokenizer.hash());
  EXPECT_EQ(read.train.tokens, m.train.tokens);
  EXPECT_EQ(read.val.tokens, static_cast<int64_t>(corpus.expected(0, 10).size()));
  EXPECT_THAT(read.train.shards, ElementsAre("s_train_000000.bin"));
  EXPECT_THAT(describe_shard(corpus.dir / "out/s_val_000000.bin"), HasSubstr("val 10 documents"));
}

TEST(Build, DoesNotDependOnThreadsOrShardSize) {
  const Corpus corpus;
  // Enough text for several tasks.
  std::string lines;
  for (int i = 0; i < 30; ++i) lines += read_file(corpus.dir / "text.jsonl");
  corpus.dir.write("text.jsonl", lines);
  BuildOptions o = corpus.options();
  o.threads = 1;
  build_shards(o, corpus.tokenizer);
  const auto train = corpus.stream("s_train_*.bin"), val = corpus.stream("s_val_*.bin");
  EXPECT_TRUE(val == corpus.expected(0, 10));
  std::vector<int32_t> all;
  for (int i = 0; i < 30; ++i)
    for (const int32_t token : corpus.expected(i == 0 ? 10 : 0, 1000)) all.push_back(token);
  EXPECT_TRUE(train == all) << "in order";
  o.set = "t";
  o.threads = 7;
  o.shard_tokens = 100'001;
  const ShardManifest m = build_shards(o, corpus.tokenizer);
  EXPECT_GT(m.train.shards.size(), 10u);
  EXPECT_TRUE(corpus.stream("t_train_*.bin") == train);
  EXPECT_TRUE(corpus.stream("t_val_*.bin") == val);
}

TEST(Build, AFailureLeavesNothing) {
  const Corpus corpus;
  BuildOptions o = corpus.options();
  o.shard_tokens = 10'000;
  o.inputs.push_back(corpus.dir.write("bad.jsonl", "{\"text\": \"a\"}\n{\"text\"}\n").string());
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("bad.jsonl:2:"));
  EXPECT_FALSE(std::filesystem::exists(o.out));
  o = corpus.options();
  o.out = corpus.dir / "new" / "and" / "deep";
  o.stop = [] { return true; };
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("interrupted"));
  EXPECT_FALSE(std::filesystem::exists(corpus.dir / "new"));
  std::filesystem::create_directories(o.out);  // one that was there before stays
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("interrupted"));
  EXPECT_TRUE(std::filesystem::is_empty(o.out));
  o.out = corpus.dir.write("file", "") / "below";
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("cannot make"));
  o.out = corpus.dir / "made" / std::string(300, 'x');  // too long a name
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("cannot make"));
  EXPECT_FALSE(std::filesystem::exists(corpus.dir / "made"));
  o = corpus.options();
  o.inputs = {corpus.dir.write("empty.jsonl", "{\"text\": \"\"}\n").string()};
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("no documents"));
}

TEST(Build, AnExistingSetIsReplacedOnlyWhenAsked) {
  const Corpus corpus;
  BuildOptions o = corpus.options();
  o.shard_tokens = 5000;
  build_shards(o, corpus.tokenizer);
  const auto names = find_shards((o.out / "s_train_*.bin").string());
  ASSERT_GT(names.size(), 2u);
  o.shard_tokens = kMaxShardTokens;
  EXPECT_THAT(error_of([&] { build_shards(o, corpus.tokenizer); }), HasSubstr("--overwrite"));
  o.overwrite = true;
  build_shards(o, corpus.tokenizer);
  EXPECT_EQ(find_shards((o.out / "s_train_*.bin").string()).size(), 1u) << "no stale shards remain";
  EXPECT_EQ(corpus.stream("s_train_*.bin"), corpus.expected(10, 1000));

  // What a killed process had put aside goes once there is a set again.
  for (const bool nothing_else : {false, true}) {
    if (nothing_else) std::filesystem::remove_all(o.out);
    std::filesystem::create_directories(o.out / ".s.replaced");
    corpus.dir.write("out/.s.replaced/s_train_000007.bin", "old");
    build_shards(o, corpus.tokenizer);
    EXPECT_FALSE(std::filesystem::exists(o.out / ".s.replaced"));
  }
}

TEST(Build, AllDocumentsMayBeValidation) {
  const Corpus corpus;
  BuildOptions o = corpus.options();
  o.val_docs = 1000;
  const ShardManifest m = build_shards(o, corpus.tokenizer);
  EXPECT_THAT(m.train.shards, IsEmpty());
  EXPECT_EQ(corpus.stream("s_val_*.bin"), corpus.expected(0, 1000));
}

TEST(Build, BadOptionsAreUsageErrors) {
  const Corpus corpus;
  for (const char* name : {"", "a/b", "../x", "."}) {
    BuildOptions o = corpus.options();
    o.set = name;
    EXPECT_THROW(build_shards(o, corpus.tokenizer), UsageError) << name;
  }
  BuildOptions o = corpus.options();
  o.val_docs = -1;
  EXPECT_THROW(build_shards(o, corpus.tokenizer), UsageError);
}

TEST(Manifest, FindsAnotherTokenizer) {
  const Corpus corpus;
  const BuildOptions o = corpus.options();
  build_shards(o, corpus.tokenizer);
  const auto shards = find_shards((o.out / "s_*.bin").string());
  EXPECT_NO_THROW(check_tokenizer_matches(shards, corpus.tokenizer));
  ShardManifest m = read_manifest(o.out / "s.json");
  m.tokenizer_hash ^= 1;
  write_manifest(o.out / "s.json", m);
  EXPECT_THAT(error_of([&] { check_tokenizer_matches(shards, corpus.tokenizer); }),
              HasSubstr("another tokenizer"));
  m.train.shards = m.val.shards = {"s_train_000009.bin"};
  write_manifest(o.out / "s.json", m);
  EXPECT_NO_THROW(check_tokenizer_matches(shards, corpus.tokenizer)) << "it lists other shards";
  std::filesystem::remove(o.out / "s.json");
  EXPECT_NO_THROW(check_tokenizer_matches(shards, corpus.tokenizer)) << "nothing to compare with";
}

TEST(Manifest, DamagedFilesAreNamed) {
  const Corpus corpus;
  const BuildOptions o = corpus.options();
  build_shards(o, corpus.tokenizer);
  const auto path = o.out / "s.json";
  const std::string good = read_file(path);
  for (size_t n = 0; n + 2 < good.size(); ++n) {
    corpus.dir.write("out/s.json", good.substr(0, n));
    EXPECT_THAT(error_of([&] { read_manifest(path); }), HasSubstr("s.json")) << n;
  }
  for (const char* key :
       {"format", "version", "set", "tokenizer_hash", "vocab_size", "bos", "train", "val"}) {
    auto json = nlohmann::json::parse(good);
    json[key] = nlohmann::json::array({1});
    corpus.dir.write("out/s.json", json.dump());
    EXPECT_THAT(error_of([&] { read_manifest(path); }), HasSubstr("s.json")) << key;
    json.erase(key);
    corpus.dir.write("out/s.json", json.dump());
    EXPECT_THAT(error_of([&] { read_manifest(path); }), HasSubstr("s.json")) << key;
  }
  for (const char* number : {"-1", "1e300", "2.5", "65537", "4294967297", "18446744073709551615"})
    for (const char* key : {"vocab_size", "bos"}) {
      auto json = nlohmann::json::parse(good);
      json[key] = nlohmann::json::parse(number);
      corpus.dir.write("out/s.json", json.dump());
      EXPECT_THAT(error_of([&] { read_manifest(path); }),
                  AllOf(HasSubstr("s.json"), HasSubstr(key)))
          << number;
    }
  corpus.dir.write("out/s.json", good + std::string(1 << 20, ' '));
  EXPECT_THAT(error_of([&] { read_manifest(path); }), HasSubstr("not a manifest of shards"));
  for (const char* opening : {"[", "{\"a\":"}) {
    std::string nested;
    for (int i = 0; i < 100; ++i) nested += opening;
    corpus.dir.write("out/s.json", nested);
    EXPECT_THAT(error_of([&] { read_manifest(path); }), HasSubstr("nested too deeply"));
  }
  for (const char* hash : {"", "xyz", "12g", "11112222333344445"}) {
    auto json = nlohmann::json::parse(good);
    json["tokenizer_hash"] = hash;
    corpus.dir.write("out/s.json", json.dump());
    EXPECT_THAT(error_of([&] { read_manifest(path); }), HasSubstr("not hexadecimal")) << hash;
  }
}

}  // namespace
}  // namespace fairway
