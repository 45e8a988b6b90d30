#include "fairway/train/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "fairway/base/check.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const RunIdentity kIdentity = {{"model.num_layers", "3"}};

class Writer : public ::testing::Test {
 protected:
  // Large enough that writing goes on while the next lines run.
  static constexpr int64_t kWeights = 1 << 20, kEma = 1001;

  RunPosition at(int64_t step) const { return {step, 0.5 * static_cast<double>(step), {1, 2, 3}}; }
  CheckpointWriter::Fill from(const std::vector<float>& weights) const {
    return [&](const std::string& name, std::span<float> values) {
      ASSERT_LE(values.size(), weights.size());
      ASSERT_EQ(values.size(), static_cast<size_t>(name == "ema" ? kEma : kWeights));
      std::copy_n(weights.begin(), values.size(), values.begin());
    };
  }
  std::vector<float> saved(int64_t step) const {
    std::vector<float> weights;
    const auto position = load_checkpoint(checkpoint_path(dir.path(), step), kIdentity, kTensors,
                                          [&](const std::string& name, std::span<const float> v) {
                                            if (name == "weights")
                                              weights.assign(v.begin(), v.end());
                                          });
    EXPECT_EQ(position, at(step));
    return weights;
  }

  const std::vector<std::pair<std::string, int64_t>> kTensors = {{"weights", kWeights},
                                                                 {"ema", kEma}};
  TempDir dir;
};

TEST_F(Writer, SavesWhatWasThereWhenItWasAsked) {
  CheckpointWriter writer(dir.path(), kIdentity, 10, kTensors);
  EXPECT_GE(writer.memory_bytes(), sizeof(float) * (kWeights + kEma));
  std::vector<float> weights(kWeights);
  std::iota(weights.begin(), weights.end(), 0.0f);
  std::map<int64_t, std::vector<float>> expected;
  for (int64_t step = 1; step <= 5; ++step) {
    expected[step] = weights;
    writer.write(at(step), from(weights));
    for (float& w : weights) w += 1;  // training goes on
    writer.check_last();
  }
  writer.finish();
  for (const auto& [step, values] : expected) EXPECT_TRUE(saved(step) == values) << step;
}

TEST_F(Writer, OlderOnesGoWhenTheNewOneIsThere) {
  CheckpointWriter writer(dir.path(), kIdentity, 2, kTensors);
  const std::vector<float> weights(kWeights);
  for (int64_t step = 1; step <= 4; ++step) writer.write(at(step), from(weights));
  writer.finish();
  EXPECT_THAT(find_checkpoints(dir.path()),
              ElementsAre(checkpoint_path(dir.path(), 3), checkpoint_path(dir.path(), 4)));
}

TEST_F(Writer, AFailureIsToldOnceAndOlderCheckpointsStay) {
  CheckpointWriter writer(dir.path(), kIdentity, 1, kTensors);
  const std::vector<float> weights(kWeights);
  writer.write(at(1), from(weights));
  writer.finish();
  // A directory of the name of the next file stands for a disk that does not take it.
  const auto blocked = checkpoint_path(dir.path(), 2);
  std::filesystem::create_directories(blocked / "x");
  writer.write(at(2), from(weights));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr(blocked.string()));
  EXPECT_EQ(saved(1), weights);
  writer.write(at(2), from(weights));
  EXPECT_THAT(error_of([&] { writer.write(at(3), from(weights)); }), HasSubstr(blocked.string()));
  writer.write(at(2), from(weights));
  std::string error;
  while (error.empty()) error = error_of([&] { writer.check_last(); });
  EXPECT_THAT(error, HasSubstr(blocked.string()));
  EXPECT_EQ(saved(1), weights);
  std::filesystem::remove_all(blocked);
  writer.write(at(2), from(weights));
  writer.finish();
  EXPECT_THAT(find_checkpoints(dir.path()), ElementsAre(blocked));
}

}  // namespace
}  // namespace fairway
