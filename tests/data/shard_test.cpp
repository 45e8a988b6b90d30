#include "fairway/data/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "fairway/data/describe.h"
#include "fairway/data/stream.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<uint16_t> iota_tokens(size_t n) {
  std::vector<uint16_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), uint16_t{0});
  return tokens;
}

// A shard's bytes, spelled out independently of ShardWriter.
std::string shard_bytes(const std::vector<uint16_t>& tokens) {
  std::vector<int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<int32_t>(tokens.size());
  std::string bytes(1024 + 2 * tokens.size(), '\0');
  std::memcpy(bytes.data(), header.data(), 1024);
  if (!tokens.empty()) std::memcpy(bytes.data() + 1024, tokens.data(), 2 * tokens.size());
  return bytes;
}

TEST(Shard, WriterWritesTheDocumentedBytes) {
  const TempDir dir;
  ShardWriter writer(dir.path(), "a_train");
  writer.append(iota_tokens(5));
  writer.append(iota_tokens(2));
  EXPECT_THAT(writer.commit(), ElementsAre("a_train_000000.bin"));
  EXPECT_EQ(read_file(dir / "a_train_000000.bin"), shard_bytes({0, 1, 2, 3, 4, 0, 1}));
}

TEST(Shard, WriterSplitsAnywhereInADocument) {
  const TempDir dir;
  {
    ShardWriter writer(dir.path(), "a_train", 4);
    writer.append(iota_tokens(3));
    writer.append(iota_tokens(9));
    EXPECT_EQ(writer.tokens(), 12);
    EXPECT_THAT(writer.commit(),
                ElementsAre("a_train_000000.bin", "a_train_000001.bin", "a_train_000002.bin"));
  }
  EXPECT_THAT(ShardFile(dir / "a_train_000000.bin").tokens(), ElementsAre(0, 1, 2, 0));
  EXPECT_THAT(ShardFile(dir / "a_train_000001.bin").tokens(), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(ShardFile(dir / "a_train_000002.bin").tokens(), ElementsAre(5, 6, 7, 8));
  EXPECT_EQ(dir.files().size(), 3u) << "the staging directory is gone";
}

TEST(Shard, WriterWithoutCommitLeavesNothing) {
  const TempDir dir;
  {
    ShardWriter writer(dir.path(), "a_train", 4);
    writer.append(iota_tokens(11));
  }
  EXPECT_THAT(dir.files(), ElementsAre());
}

TEST(Shard, EveryOtherLengthIsRejected) {
  const TempDir dir;
  const std::string good = shard_bytes(iota_tokens(20));
  EXPECT_EQ(ShardFile(dir.write("good.bin", good)).tokens().size(), 20u);
  for (size_t n = 0; n < good.size(); ++n) {
    const auto path = dir.write("short.bin", good.substr(0, n));
    EXPECT_THAT(error_of([&] { ShardFile{path}; }),
                AllOf(HasSubstr("short.bin"), HasSubstr("offset"), HasSubstr("cut short")))
        << n;
  }
  EXPECT_THAT(error_of([&] { ShardFile{dir.write("long.bin", good + '\0')}; }),
              AllOf(HasSubstr("long.bin"), HasSubstr("offset 1064"), HasSubstr("too long")));
}

TEST(Shard, EveryFlippedHeaderBitIsRejected) {
  const TempDir dir;
  const std::string good = shard_bytes(iota_tokens(20));
  for (size_t bit = 0; bit < 8 * 1024; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    const auto path = dir.write("bad.bin", bad);
    EXPECT_THAT(error_of([&] { ShardFile{path}; }),
                AllOf(HasSubstr("bad.bin"), HasSubstr("offset")))
        << bit;
  }
}

TEST(Shard, TokenOutsideTheVocabularyIsNamed) {
  const TempDir dir;
  std::vector<uint16_t> tokens(10'000, 7);
  tokens[9'001] = 96;
  const auto path = dir.write("v.bin", shard_bytes(tokens));
  EXPECT_NO_THROW(ShardFile(path, 97));
  EXPECT_NO_THROW(ShardFile(path, 65536));
  EXPECT_NO_THROW(ShardFile{path});
  EXPECT_THAT(error_of([&] { ShardFile(path, 96); }),
              AllOf(HasSubstr("v.bin: offset 19026: token 9001 is 96"), HasSubstr("96")));
}

TEST(Shard, NoTokensAreWithinAnyVocabulary) {
  const std::string none = shard_bytes({});
  const std::vector<char> exact(none.begin(), none.end());  // nothing may be read behind it
  EXPECT_TRUE(shard_tokens(std::as_bytes(std::span(exact)), "none.bin", 97).empty());
}

TEST(Shard, FindShardsSortsGlobsAndNamesWhatIsMissing) {
  const TempDir dir;
  for (const char* name : {"b_train_000001.bin", "b_train_000000.bin", "a_val_000000.bin"})
    dir.write(name, "");
  const auto found = find_shards(
      std::vector<std::string>{(dir / "b_*.bin").string(), (dir / "a_val_000000.bin").string()});
  EXPECT_THAT(found, ElementsAre(dir / "b_train_000000.bin", dir / "b_train_000001.bin",
                                 dir / "a_val_000000.bin"));
  EXPECT_THAT(error_of([&] { find_shards((dir / "c_*.bin").string()); }), HasSubstr("c_*.bin"));
}

TEST(Shard, DescribeCountsDocuments) {
  const TempDir dir;
  const auto path = dir.write("x.bin", shard_bytes({1, 5, 6, 1, 9}));
  EXPECT_THAT(describe_shard(path),
              AllOf(HasSubstr("tokens           5\n"), HasSubstr("largest token    9\n"),
                    HasSubstr("documents begun  2 ")));
}

TEST(TokenStream, IsTheConcatenation) {
  const TempDir dir;
  const std::vector<uint16_t> all = iota_tokens(23);
  std::vector<std::filesystem::path> paths;
  const size_t sizes[] = {5, 0, 1, 17};
  for (size_t i = 0, begin = 0; i < 4; begin += sizes[i++])
    paths.push_back(
        dir.write(fmt::format("{}.bin", i),
                  shard_bytes({all.begin() + static_cast<ptrdiff_t>(begin),
                               all.begin() + static_cast<ptrdiff_t>(begin + sizes[i])})));
  const TokenStream stream(paths);
  ASSERT_EQ(stream.size(), 23);
  for (int64_t begin = 0; begin <= 23; ++begin) {
    if (begin < 23) {
      EXPECT_EQ(stream[begin], begin);
    }
    for (int64_t count = 0; begin + count <= 23; ++count) {
      std::vector<int32_t> out(static_cast<size_t>(count) + 1, -1);
      stream.copy(begin, count, out.data());
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], begin + i);
      EXPECT_EQ(out.back(), -1);
    }
  }
  EXPECT_THAT(stream.find(5), ElementsAre(5));
  EXPECT_THAT(error_of([&] { TokenStream(paths, 22); }), HasSubstr("3.bin"));
  EXPECT_NE(error_of([&] { TokenStream(std::vector{paths[1]}); }), "") << "no tokens at all";
}

}  // namespace
}  // namespace fairway
