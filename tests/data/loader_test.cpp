#include "fairway/data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <chrono>
#include <fstream>
#include <numeric>
#include <thread>

#include "fairway/data/packing.h"
#include "fairway/data/shard.h"
#include "fairway/io/safetensors.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using Tokens = std::vector<uint16_t>;

std::vector<fs::path> write_shards(const TempDir& dir, const std::vector<Tokens>& shards) {
  std::vector<fs::path> paths;
  for (size_t i = 0; i < shards.size(); ++i) {
    ShardWriter writer(dir.path(), fmt::format("s{:03}_train", i));
    writer.append(shards[i]);
    for (const auto& name : writer.commit()) paths.push_back(dir / name);
  }
  return paths;
}

LoaderOptions options(int64_t tokens, int rank = 0, int world = 1) {
  LoaderOptions o;
  o.tokens = tokens;
  o.rank = rank;
  o.world = world;
  return o;
}

TEST(Packing, SegmentsStartAtBosAndEveryMaxDocLen) {
  const std::vector<int32_t> inputs{9, 9, 1, 9, 9, 9, 9, 9, 1, 1, 9, 9};
  EXPECT_THAT(make_cu_seqlens(inputs, 1, 0, 1), ElementsAre(0, 2, 8, 9, 12));
  EXPECT_THAT(make_cu_seqlens(inputs, 1, 4, 1), ElementsAre(0, 2, 6, 8, 9, 12));
  EXPECT_THAT(make_cu_seqlens(inputs, 1, 4, 4), ElementsAre(0, 2, 6, 8, 9, 12, 12, 12));
  EXPECT_EQ(make_cu_seqlens(inputs, 1, 4).size(), 64u);
}

TEST(Loader, MatchesThePublishedPacking) {
  const SafetensorsFile golden(FAIRWAY_TEST_DATA "/golden/a.safetensors");
  const auto stream = golden.read<int32_t>("tokens");
  const Tokens tokens(stream.begin(), stream.end());
  const auto half = tokens.begin() + static_cast<ptrdiff_t>(tokens.size() / 2);
  const TempDir dir;
  const auto paths = write_shards(dir, {{tokens.begin(), half}, {half, tokens.end()}});
  // From the file's metadata key `config`: batch_tokens 96 a rank, segments of 32, bucket 8.
  for (int world = 1; world <= 2; ++world)
    for (int rank = 0; rank < world; ++rank) {
      LoaderOptions o = options(96, rank, world);
      o.max_doc_len = 32;
      o.bucket = 8;
      o.vocab_size = 96;
      TrainLoader loader(paths, o);
      for (int i = 0; i < 4; ++i) {
        const std::string at = fmt::format("pack.ws{}.rank{}.batch{}.", world, rank, i);
        const PackedBatch batch = loader.next();
        EXPECT_EQ(batch.inputs, golden.read<int32_t>(at + "inputs")) << at;
        EXPECT_EQ(batch.targets, golden.read<int32_t>(at + "targets")) << at;
        EXPECT_EQ(batch.cu_seqlens, golden.read<int32_t>(at + "cu_seqlens")) << at;
      }
    }
}

// Shards of distinct positions: token values number the documents' tokens, so that a batch tells
// where it was cut. Bos (1) appears with some probability; at least one shard holds a step.
struct Set {
  std::vector<Tokens> shards;
  int64_t n;
  int world;
};

Set arbitrary_set() {
  Set set;
  set.n = *rc::gen::inRange<int64_t>(1, 12);
  set.world = *rc::gen::inRange(1, 9);
  const int count = *rc::gen::inRange(1, 5);
  uint16_t next = 2;
  for (int i = 0; i < count; ++i) {
    const auto bos = *rc::gen::container<std::vector<bool>>(
        static_cast<size_t>(*rc::gen::inRange(0, 300)),
        rc::gen::weightedElement<bool>({{1, true}, {6, false}}));
    Tokens shard;
    for (const bool b : bos) shard.push_back(b ? uint16_t{1} : next++);
    set.shards.push_back(shard);
  }
  Tokens sure(static_cast<size_t>(set.world * (set.n + 1)) + 3, 7);
  sure[0] = 1;
  set.shards.push_back(sure);
  return set;
}

// SPEC §2, word for word, on whole shards in memory: the spans of one pass over the set.
std::vector<std::vector<int32_t>> spans_of_rank(const Set& set, int rank) {
  std::vector<std::vector<int32_t>> spans;
  for (const Tokens& shard : set.shards) {
    size_t c = 0;
    while (c < shard.size() && shard[c] != 1) ++c;
    const auto span = static_cast<size_t>(set.n + 1), step = span * static_cast<size_t>(set.world);
    for (; c + step <= shard.size(); c += step) {
      const auto begin =
          shard.begin() + static_cast<ptrdiff_t>(c + static_cast<size_t>(rank) * span);
      spans.emplace_back(begin, begin + static_cast<ptrdiff_t>(span));
    }
  }
  return spans;
}

TEST(Loader, CoversWhatTheSpecSaysAtOneToEightRanks) {
  EXPECT_TRUE(rc::check("packing", [] {
    const Set set = arbitrary_set();
    const TempDir dir;
    const auto paths = write_shards(dir, set.shards);
    // Empty shards are not written, and contribute nothing.
    for (int rank = 0; rank < set.world; ++rank) {
      const auto spans = spans_of_rank(set, rank);
      TrainLoader loader(paths, options(set.n, rank, set.world));
      for (int pass = 0; pass < 2; ++pass)
        for (const auto& span : spans) {
          const PackedBatch batch = loader.next();
          RC_ASSERT(batch.inputs == std::vector<int32_t>(span.begin(), span.end() - 1));
          RC_ASSERT(batch.targets == std::vector<int32_t>(span.begin() + 1, span.end()));
          RC_ASSERT(loader.position().epoch == pass);
          std::vector<int32_t> starts;
          for (size_t i = 0; i < batch.inputs.size(); ++i)
            if (i == 0 || batch.inputs[i] == 1) starts.push_back(static_cast<int32_t>(i));
          RC_ASSERT(batch.cu_seqlens.size() % 64 == 0u);
          starts.resize(batch.cu_seqlens.size(), static_cast<int32_t>(set.n));
          RC_ASSERT(batch.cu_seqlens == starts);
        }
    }
  }));
}

// Also where P does not divide a step's micro-batches, and where their number changes between
// steps.
TEST(Loader, StepsAreTheSameForAnyNumberOfRanks) {
  constexpr int kMicroSteps = 8, kSteps = 5;
  constexpr int64_t kTokens = 6;
  Tokens tokens(kSteps * kMicroSteps * (kTokens + 1) + 50);
  std::iota(tokens.begin(), tokens.end(), uint16_t{1});
  const TempDir dir;
  const auto paths = write_shards(dir, {tokens});
  TrainLoader one(paths, options(kTokens));
  LoaderPosition position;
  for (const int world : {3, 1, 5, 8, 7}) {  // a step each
    std::vector<PackedBatch> together(kMicroSteps);
    LoaderPosition after;
    for (int rank = 0; rank < world; ++rank) {
      LoaderOptions o = options(kTokens, rank, world);
      o.micro_steps = kMicroSteps;
      TrainLoader loader(paths, o);
      loader.seek(position);
      for (int i = rank; i < kMicroSteps; i += world)
        together[static_cast<size_t>(i)] = loader.next();
      if (rank > 0) {
        EXPECT_EQ(loader.position(), after) << rank << " of " << world;
      }
      after = loader.position();
    }
    for (const PackedBatch& batch : together) EXPECT_EQ(batch, one.next()) << world << " ranks";
    position = after;
  }
}

TEST(Loader, SeekResumesExactly) {
  EXPECT_TRUE(rc::check("seek(position())", [] {
    const Set set = arbitrary_set();
    const TempDir dir;
    const auto paths = write_shards(dir, set.shards);
    const LoaderOptions o = options(set.n, *rc::gen::inRange(0, set.world), set.world);
    TrainLoader straight(paths, o);
    const int before = *rc::gen::inRange(0, 30);
    for (int i = 0; i < before; ++i) straight.next();
    const LoaderPosition at = straight.position();
    TrainLoader resumed(paths, o);
    const int elsewhere = *rc::gen::inRange(0, 5);
    for (int i = 0; i < elsewhere; ++i) resumed.next();
    resumed.seek(at);
    RC_ASSERT(resumed.position() == at);
    for (int i = 0; i < 20; ++i) {
      RC_ASSERT(resumed.next() == straight.next());
      RC_ASSERT(resumed.position() == straight.position());
    }
  }));
}

TEST(Loader, RefusesSetsItCannotServe) {
  const TempDir dir;
  const auto no_bos = write_shards(dir, {{5, 6, 7, 8}, {9, 9}});
  EXPECT_THAT(error_of([&] { TrainLoader(no_bos, options(1)); }), HasSubstr("bos"));
  const TempDir other;
  const auto tiny = write_shards(other, {{5, 1, 7, 8}, {1, 9}});
  EXPECT_NO_THROW(TrainLoader(tiny, options(2)));
  const std::string message = error_of([&] { TrainLoader(tiny, options(3)); });
  EXPECT_THAT(message, HasSubstr("reads 4 consecutive tokens"));
  EXPECT_THAT(message, HasSubstr("has 3 from"));
  EXPECT_NE(error_of([&] { TrainLoader({}, options(3)); }), "");
  TrainLoader loader(tiny, options(2));
  EXPECT_NE(error_of([&] { loader.seek({0, 2, 0}); }), "");
  EXPECT_NE(error_of([&] { loader.seek({0, 0, 5}); }), "");
}

TEST(Loader, AShardThatFitsOnlyFromItsBeginningIsReadAgain) {
  const TempDir dir;
  const auto paths = write_shards(dir, {{1, 2, 3, 4, 5}});
  TrainLoader loader(paths, options(2));
  for (int i = 0; i < 5; ++i) EXPECT_THAT(loader.next().inputs, ElementsAre(1, 2));
  EXPECT_EQ(loader.position().epoch, 4);
}

TEST(Loader, ABadShardLaterInTheSetIsReportedAfterTheGoodBatches) {
  const TempDir dir;
  const auto paths = write_shards(dir, {{1, 2, 3, 4}, {1, 99, 3, 4}});
  LoaderOptions o = options(1);
  o.vocab_size = 50;
  TrainLoader loader(paths, o);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // reading ahead meets the shard
  EXPECT_THAT(loader.next().inputs, ElementsAre(1));
  EXPECT_THAT(loader.next().inputs, ElementsAre(3));
  for (int i = 0; i < 2; ++i)
    EXPECT_THAT(error_of([&] { loader.next(); }), HasSubstr("token 1 is 99"));
  EXPECT_EQ(loader.position(), (LoaderPosition{0, 0, 4}));
  dir.write("s001_train_000000.bin", "not a shard");
  EXPECT_THAT(error_of([&] { TrainLoader(paths, o); }), HasSubstr("s001_train_000000.bin"))
      << "headers are checked at once";
}

// The shards that /proc/self/maps lists.
std::vector<std::string> mapped_shards(const TempDir& dir) {
  std::ifstream maps("/proc/self/maps");
  std::vector<std::string> names;
  for (std::string line; std::getline(maps, line);)
    if (const size_t at = line.find(dir.path().string()); at != line.npos)
      names.push_back(fs::path(line.substr(at)).filename());
  return names;
}

TEST(Loader, MapsTwoShardsHoweverManyThereAre) {
  const TempDir dir;
  const auto paths = write_shards(dir, std::vector<Tokens>(50, {1, 2, 3, 4}));
  TrainLoader loader(paths, options(3));
  for (int i = 0; i < 200; ++i) {
    loader.next();
    // Two, and for a moment the one that is being replaced.
    EXPECT_LE(mapped_shards(dir).size(), 3u);
  }
}

TEST(Loader, ReadsAheadTwoBatchesAndNoMore) {
  const TempDir dir;
  const auto paths = write_shards(dir, std::vector<Tokens>(50, {1, 2, 3, 4}));
  TrainLoader loader(paths, options(3));
  loader.next();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  // Batch 0 is taken, 1 and 2 wait, 3 is cut, and the shard after it is open.
  for (const std::string& name : mapped_shards(dir)) EXPECT_LE(name, paths[4].filename().string());
}

}  // namespace
}  // namespace fairway
