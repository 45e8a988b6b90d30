#include "fairway/train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "fairway/base/check.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/safetensors.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using ::testing::HasSubstr;

const RunIdentity kIdentity = {{"model.num_layers", "3"}, {"optim.matrix_lr", "0.022"}};
// 0.1 + 0.2: a time whose text needs all 17 digits.
const RunPosition kPosition = {57, 0.1 + 0.2, {2, 1, 12345}};

class Checkpoint : public ::testing::Test {
 protected:
  void SetUp() override { save(path); }
  void save(const std::filesystem::path& to) {
    const std::vector<CheckpointTensor> tensors = {{"weights", a}, {"ema", b}};
    save_checkpoint(to, kPosition, kIdentity, tensors);
  }
  std::string error_of(const std::filesystem::path& file, const RunIdentity& identity = kIdentity,
                       int64_t size = 3) {
    try {
      load_checkpoint(file, identity, {{"weights", size}, {"ema", 2}}, [](auto&, auto) {
        ADD_FAILURE() << "a refused checkpoint must not be loaded";
      });
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  TempDir dir;
  std::filesystem::path path = checkpoint_path(dir.path(), 57);
  std::vector<float> a = {1, 2, 3}, b = {-1, 0.5f};
};

TEST_F(Checkpoint, RoundTrip) {
  std::map<std::string, std::vector<float>> loaded;
  const auto position = load_checkpoint(path, kIdentity, {{"weights", 3}, {"ema", 2}},
                                        [&](const std::string& name, std::span<const float> v) {
                                          loaded[name].assign(v.begin(), v.end());
                                        });
  EXPECT_EQ(position, kPosition);
  EXPECT_EQ(loaded["weights"], a);
  EXPECT_EQ(loaded["ema"], b);
  const auto info = read_checkpoint_info(path);
  EXPECT_EQ(info.position, kPosition);
  EXPECT_EQ(info.identity, kIdentity);
}

TEST_F(Checkpoint, AnotherConfigurationIsRefusedByName) {
  auto other = kIdentity;
  other["optim.matrix_lr"] = "0.03";
  EXPECT_THAT(error_of(path, other), HasSubstr("optim.matrix_lr was 0.022, now 0.03"));
  other = kIdentity;
  other["optim.new_key"] = "1";
  EXPECT_THAT(error_of(path, other), HasSubstr("optim.new_key was absent, now 1"));
  other = kIdentity;
  other.erase("model.num_layers");
  EXPECT_THAT(error_of(path, other), HasSubstr("model.num_layers = 3"));
  EXPECT_THAT(error_of(path, kIdentity, 4), HasSubstr("tensor 'weights' is not 4 floats"));
}

TEST_F(Checkpoint, EveryFlippedByteIsNoticed) {
  const std::string good = read_file(path);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    std::ofstream(path, std::ios::binary) << bad;
    EXPECT_NE(error_of(path), "no error") << "byte " << i << " of " << good.size();
    if (::testing::Test::HasFailure()) break;
  }
}

TEST_F(Checkpoint, TruncatedOrForeignFilesAreRefused) {
  const std::string good = read_file(path);
  for (size_t size : {size_t{0}, size_t{7}, size_t{100}, good.size() - 1}) {
    write_file(path, good.substr(0, size));
    EXPECT_THAT(error_of(path), HasSubstr(path.string()));
  }
  const std::vector<SafetensorsTensor> none;
  write_safetensors(path, none, {});
  EXPECT_THAT(error_of(path), HasSubstr("not a checkpoint"));
}

TEST_F(Checkpoint, FoundByStepAndPrunedOldestFirst) {
  for (int64_t step : {9, 100'000'000, 120}) save(checkpoint_path(dir.path(), step));
  write_file(dir.path() / "step_x.safetensors", "");
  write_file(dir.path() / "step_00000130.safetensors.tmp", "");
  auto names = [&] {
    std::vector<std::string> out;
    for (auto& p : find_checkpoints(dir.path())) out.push_back(p.filename().string());
    return out;
  };
  EXPECT_EQ(names(),
            (std::vector<std::string>{"step_00000009.safetensors", "step_00000057.safetensors",
                                      "step_00000120.safetensors", "step_100000000.safetensors"}));
  prune_checkpoints(dir.path(), 2);
  EXPECT_EQ(names(),
            (std::vector<std::string>{"step_00000120.safetensors", "step_100000000.safetensors"}));
  EXPECT_TRUE(find_checkpoints(dir.path() / "missing").empty());
  delete_unfinished_checkpoints(dir.path());
  EXPECT_EQ(dir.files(),
            (std::vector<std::string>{"step_00000120.safetensors", "step_100000000.safetensors",
                                      "step_x.safetensors"}));
}

}  // namespace
}  // namespace fairway
