#include "fairway/train/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "fairway/base/check.h"
#include "fairway/base/rng.h"
#include "fairway/data/shard.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/safetensors.h"
#include "fairway/model/weights.h"
#include "fairway/train/checkpoint.h"
#include "support/temp_dir.h"
#include "tiny_run.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Training : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_shards(dir.path());
    run = testing::tiny_run(dir.path());
    run.out = dir.path() / "run";
  }

  TrainRun into(const char* name) const {
    TrainRun other = run;
    other.out = dir.path() / name;
    return other;
  }
  static std::string model_bytes(const TrainRun& r) {
    return read_file(r.out / "model.safetensors");
  }
  static fs::path checkpoint(const TrainRun& r, int64_t step) {
    return checkpoint_path(r.out / "checkpoints", step);
  }
  static std::vector<double> losses(const TrainRun& r) {
    std::vector<double> out;
    const std::string text = read_file(r.out / "metrics.jsonl");
    for (size_t at = 0; (at = text.find("\"loss\":", at)) != std::string::npos; at += 7)
      out.push_back(std::stod(text.substr(at + 7, 20)));
    return out;
  }
  static std::string error_of(const TrainRun& r) {
    try {
      train(r);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  TempDir dir;
  TrainRun run;
};

TEST_F(Training, LearnsAndExportsTheMovingAverage) {
  run.train.steps = 120;
  const TrainSummary summary = train(run);
  EXPECT_EQ(summary.steps, 120);
  const auto loss = losses(run);
  ASSERT_EQ(loss.size(), 120u);
  EXPECT_NEAR(loss[0], std::log(32.0), 0.1);
  EXPECT_LT(loss.back(), 1.2);  // the first tokens of a document stay unpredictable
  EXPECT_NEAR(summary.loss, loss.back(), 1e-6);

  const auto model = load_model(summary.model);
  EXPECT_EQ(model.config, run.model);
  const auto state = testing::tensors_of(checkpoint(run, 120));
  EXPECT_EQ(model.flat, state.at("ema"));
  EXPECT_NE(model.flat, state.at("weights"));
}

TEST_F(Training, ThreadsAndWarmUpDoNotMatter) {
  train(run);
  auto other = into("other");
  other.train.threads = 2;
  other.train.warmup_steps = 3;
  train(other);
  EXPECT_EQ(model_bytes(run), model_bytes(other));
  EXPECT_EQ(testing::tensors_of(checkpoint(run, 20)), testing::tensors_of(checkpoint(other, 20)));
  other = into("seed");
  other.train.seed = 2;
  train(other);
  EXPECT_NE(model_bytes(run), model_bytes(other));
}

TEST_F(Training, ResumeEqualsUninterrupted) {
  run.train.checkpoint_every = 7;
  run.train.keep_checkpoints = 10;
  train(run);
  ASSERT_EQ(find_checkpoints(run.out / "checkpoints").size(), 3u);  // 7, 14, 20

  for (int64_t step : {7, 14}) {
    auto other = into(step == 7 ? "from7" : "from14");
    other.train.threads = 2;
    other.train.warmup_steps = 1;
    fs::create_directories(other.out / "checkpoints");
    fs::copy(checkpoint(run, step), checkpoint(other, step));
    fs::copy(run.out / "metrics.jsonl", other.out / "metrics.jsonl");
    const TrainSummary summary = train(other);
    EXPECT_EQ(summary.steps, 20);
    EXPECT_EQ(model_bytes(run), model_bytes(other));
    EXPECT_EQ(testing::tensors_of(checkpoint(run, 20)), testing::tensors_of(checkpoint(other, 20)));
    EXPECT_EQ(read_checkpoint_info(checkpoint(run, 20)).position.data,
              read_checkpoint_info(checkpoint(other, 20)).position.data);
    EXPECT_EQ(losses(run), losses(other));
  }
}

// Also on a CPU, which emulates it: other numbers than float32's, but near them, and as
// reproducible.
TEST_F(Training, Float8LearnsAndResumesToTheSameBits) {
  run.train.steps = 60;
  run.train.checkpoint_every = 25;
  run.train.keep_checkpoints = 10;
  auto plain = into("float32");
  train(plain);
  run.train.matmul_precision = MatmulPrecision::float8;
  train(run);
  const auto loss = losses(run), want = losses(plain);
  ASSERT_EQ(loss.size(), want.size());
  EXPECT_EQ(loss[0], want[0]);  // Wdown begins at zero
  EXPECT_NE(loss[1], want[1]);
  const double learned = want.front() - want.back();
  ASSERT_GT(learned, 1);
  EXPECT_NEAR(loss.back(), want.back(), 0.1 * learned);

  auto other = into("from25");
  other.train.matmul_precision = MatmulPrecision::float8;
  other.train.threads = 2;
  fs::create_directories(other.out / "checkpoints");
  fs::copy(checkpoint(run, 25), checkpoint(other, 25));
  fs::copy(run.out / "metrics.jsonl", other.out / "metrics.jsonl");
  train(other);
  EXPECT_EQ(model_bytes(run), model_bytes(other));
  EXPECT_EQ(losses(run), losses(other));
  EXPECT_NE(model_bytes(run), model_bytes(plain));
  EXPECT_EQ(testing::tensors_of(checkpoint(run, 60)), testing::tensors_of(checkpoint(other, 60)));

  run.train.matmul_precision = MatmulPrecision::float32;
  EXPECT_THAT(error_of(run), HasSubstr("train.matmul_precision was float8, now float32"));
}

TEST_F(Training, OnlyTheNewestCheckpointsStay) {
  run.train.checkpoint_every = 3;
  run.train.keep_checkpoints = 2;
  train(run);
  EXPECT_EQ(find_checkpoints(run.out / "checkpoints"),
            (std::vector<fs::path>{checkpoint(run, 18), checkpoint(run, 20)}));
}

TEST_F(Training, AFinishedRunIsLeftAloneUnlessRestarted) {
  train(run);
  const auto written = fs::last_write_time(run.out / "model.safetensors");
  EXPECT_TRUE(std::isnan(train(run).loss));
  EXPECT_EQ(fs::last_write_time(run.out / "model.safetensors"), written);
  fs::remove(run.out / "model.safetensors");
  train(run);  // exports again from the checkpoint
  const std::string model = model_bytes(run);
  run.restart = true;
  EXPECT_FALSE(std::isnan(train(run).loss));
  EXPECT_EQ(model_bytes(run), model);
  EXPECT_EQ(losses(run).size(), 20u);
}

TEST_F(Training, AnotherConfigurationIsRefused) {
  train(run);
  auto changed = run;
  changed.optim.matrix_lr = 0.5;
  EXPECT_THAT(error_of(changed), HasSubstr("optim.matrix_lr was 0.022, now 0.5"));
  changed = run;
  changed.train.steps = 21;
  EXPECT_THAT(error_of(changed), HasSubstr("train.steps was 20, now 21"));
  changed = run;
  changed.model.norm_eps = 1e-6;
  EXPECT_THAT(error_of(changed), HasSubstr("model.norm_eps"));
  changed = run;
  changed.data.train = {(dir.path() / "set_train_000000.bin").string()};
  EXPECT_THAT(error_of(changed), HasSubstr("data.train was"));
  changed = run;
  changed.train.log_every = 3;
  EXPECT_EQ(error_of(changed), "no error");
}

TEST_F(Training, NotFiniteStopsAndKeepsTheLastCheckpoint) {
  run.train.checkpoint_every = 1;
  run.train.keep_checkpoints = 1;
  run.optim.matrix_lr = 1e30;
  const std::string error = error_of(run);
  EXPECT_THAT(error, HasSubstr("training stopped"));
  const auto found = find_checkpoints(run.out / "checkpoints");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_THAT(error, HasSubstr(found[0].string()));
  EXPECT_FALSE(fs::exists(run.out / "model.safetensors"));
  EXPECT_THAT(error,
              HasSubstr("step " + std::to_string(read_checkpoint_info(found[0]).position.step)));
}

TEST_F(Training, InterruptWritesACheckpointThatContinues) {
  run.train.steps = 60;
  run.train.checkpoint_seconds = 0;
  train(run);

  auto stopped = into("stopped");
  stopped.train.steps = 60;
  std::thread killer([&] {
    const fs::path metrics = stopped.out / "metrics.jsonl";
    while (!fs::exists(metrics) || read_file(metrics).size() < 500)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(::getpid(), SIGINT);
  });
  const std::string error = error_of(stopped);
  killer.join();
  EXPECT_THAT(error, HasSubstr("run the same command to continue"));
  const auto found = find_checkpoints(stopped.out / "checkpoints");
  ASSERT_EQ(found.size(), 1u);
  EXPECT_THAT(error, HasSubstr(found[0].string()));
  EXPECT_LT(read_checkpoint_info(found[0]).position.step, 60);
  train(stopped);
  EXPECT_EQ(model_bytes(run), model_bytes(stopped));
  EXPECT_EQ(losses(run), losses(stopped));
}

TEST_F(Training, TheClockStopsIt) {
  run.train.steps = 1'000'000;
  run.train.max_seconds = 4;
  run.train.reserve_seconds = 2;
  const TrainSummary summary = train(run);
  EXPECT_GE(summary.elapsed, 2.0);
  EXPECT_LT(summary.steps, 1'000'000);
  const std::string metrics = read_file(run.out / "metrics.jsonl");
  EXPECT_NE(metrics.find("\"looped\":false"), std::string::npos);
  EXPECT_NE(metrics.find("\"looped\":true"), std::string::npos);
}

TEST_F(Training, ImpossibleSettingsAreUsageErrors) {
  const std::pair<const char*, void (*)(TrainRun&)> cases[] = {
      {"batch_tokens", [](TrainRun& r) { r.train.micro_steps = 3; }},
      {"micro_steps", [](TrainRun& r) { r.train.micro_steps = 0; }},
      {"batch_tokens", [](TrainRun& r) { r.train.batch_tokens = 0; }},
      {"batch_tokens", [](TrainRun& r) { r.train.batch_tokens = int64_t{1} << 40; }},
      {"max_seconds", [](TrainRun& r) { r.train.max_seconds = -1; }},
      {"reserve_seconds", [](TrainRun& r) { r.train.max_seconds = r.train.reserve_seconds = 5; }},
      {"steps", [](TrainRun& r) { r.train.steps = 0; }},
      {"warmdown", [](TrainRun& r) { r.train.warmdown = 1.5; }},
      {"min_lr", [](TrainRun& r) { r.train.min_lr = std::nan(""); }},
      {"loop_at", [](TrainRun& r) { r.train.loop_at = -0.1; }},
      {"warmup_steps", [](TrainRun& r) { r.train.warmup_steps = -1; }},
      {"checkpoint_every", [](TrainRun& r) { r.train.checkpoint_every = -1; }},
      {"checkpoint_seconds", [](TrainRun& r) { r.train.checkpoint_seconds = -1; }},
      {"keep_checkpoints", [](TrainRun& r) { r.train.keep_checkpoints = 0; }},
      {"log_every", [](TrainRun& r) { r.train.log_every = 0; }},
      {"threads", [](TrainRun& r) { r.train.threads = -1; }},
      {"ema_decay", [](TrainRun& r) { r.optim.ema_decay = 1; }},
      {"adam_eps", [](TrainRun& r) { r.optim.adam_eps = 0; }},
      {"matrix_lr", [](TrainRun& r) { r.optim.matrix_lr = -1; }},
      {"num_heads", [](TrainRun& r) { r.model.num_heads = 3; }},
  };
  for (const auto& [key, change] : cases) {
    TrainRun bad = run;
    change(bad);
    try {
      train(bad);
      ADD_FAILURE() << key;
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), HasSubstr(fmt::format("] {} = ", key)));
    }
    EXPECT_FALSE(fs::exists(run.out)) << key;
  }
}

}  // namespace
}  // namespace fairway
