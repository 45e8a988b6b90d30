// Training by several ranks against training by one. Run by mpirun at several numbers of ranks, and
// alone; every rank runs every test.
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <numeric>

#include "fairway/base/check.h"
#include "fairway/comm/rank_device.h"
#include "fairway/device/choose.h"
#include "fairway/io/atomic_file.h"
#include "fairway/model/weights.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/train/checkpoint.h"
#include "fairway/train/trainer.h"
#include "support/temp_dir.h"
#include "tiny_run.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using State = std::map<std::string, std::vector<float>>;

using testing::group;

double norm_of(const std::vector<float>& x) {
  double sum = 0;
  for (float v : x) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> d(a.size());
  for (size_t i = 0; i < d.size(); ++i) d[i] = a[i] - b[i];
  return norm_of(d);
}

class Ranks : public ::testing::TestWithParam<DeviceKind> {
 protected:
  // One directory for all ranks: rank 0's.
  void SetUp() override {
    if (GetParam() == DeviceKind::cuda && !testing::gpu_for_every_rank())
      GTEST_SKIP() << "no GPU here for every rank";
    std::string path = own_.path().string();
    path.resize(4096, '\0');
    group->broadcast(std::as_writable_bytes(std::span(path)));
    directory_ = path.c_str();
    // One shard that lasts for 20 steps: what is dropped at a shard's end depends on the number of
    // ranks.
    if (group->root()) testing::write_shards(directory_, 20 * 12 * 33 + 1000);
    group->broadcast(true);
    run_ = testing::tiny_run(directory_);
    run_.train.device = GetParam();
    run_.optim.clip_mode = ClipMode::global;  // the other mode depends on the number of ranks
    run_.train.batch_tokens = 384;
    run_.train.micro_steps = 12;
    run_.train.checkpoint_every = 10;
  }
  void TearDown() override { group->broadcast(true); }  // before rank 0's directory goes

  // Trains as all ranks, or as rank 0 alone, into a directory of that name.
  TrainRun train_as(const char* name, ProcessGroup* ranks, int64_t steps = 20) {
    TrainRun run = run_;
    run.out = directory_ / name;
    run.group = ranks;
    run.train.steps = steps;
    if (ranks || group->root()) train(run);
    group->broadcast(true);
    return run;
  }
  static State state(const TrainRun& run, int64_t step = 20) {
    return testing::tensors_of(checkpoint_path(run.out / "checkpoints", step));
  }

  fs::path directory_;
  TrainRun run_;

 private:
  TempDir own_;
};

// What 20 steps make of an error that is no larger than rounding, in the tensor where it shows
// most: the same run by one rank, from weights that differ in their last bit.
double amplified_rounding(const TrainRun& reference) {
  const std::vector<fs::path> shards = find_shards(reference.data.train);
  const auto final_state = [&](bool disturbed) {
    return with_device(
        {.kind = reference.train.device, .threads = 1},
        [&]<class Device, class T>(Device& device, std::type_identity<T>) {
          Trainer<Device, T> trainer(device, reference.model, reference.optim, reference.train);
          trainer.init();
          std::vector<float> weights(static_cast<size_t>(flat_size(reference.model)));
          trainer.download_state("weights", weights);
          if (disturbed)
            for (float& w : weights) w *= 1 + 0x1p-23f;
          trainer.upload_state("weights", weights);
          TrainLoader loader(shards, {.tokens = reference.train.micro_batch_tokens(),
                                      .max_doc_len = reference.model.max_doc_len,
                                      .vocab_size = reference.model.vocab_size,
                                      .bucket = reference.data.cu_seqlens_bucket});
          for (int64_t step = 0; step < 20; ++step)
            trainer.step({step, 1, step >= 7}, [&] { return loader.next(); });
          State state;
          for (const auto& [name, size] : trainer.state_sizes()) {
            state[name].resize(static_cast<size_t>(size));
            trainer.download_state(name, state[name]);
          }
          return state;
        });
  };
  const State straight = final_state(false), other = final_state(true);
  double most = 0;
  for (const auto& [name, values] : straight)
    most = std::max(most, distance(values, other.at(name)) / norm_of(values));
  return most;
}

TEST_P(Ranks, TrainAsOneDoes) {
  const TrainRun alone = train_as("alone", nullptr), shared = train_as("shared", group.get());
  if (!group->root()) return;
  const State want = state(alone), got = state(shared);
  ASSERT_EQ(want.size(), got.size());
  const double rounding = amplified_rounding(alone);
  // An exchange that is left out moves the momentum by nearly all of itself. On a CPU rounding
  // comes to less than a thousandth; a GPU's bf16 makes percents of it.
  ASSERT_LT(4 * rounding, 0.5);
  for (const auto& [name, values] : want) {
    ASSERT_EQ(values.size(), got.at(name).size()) << name;
    EXPECT_LE(distance(values, got.at(name)), 4 * rounding * norm_of(values)) << name;
  }
  if (group->size() == 1) {
    EXPECT_EQ(want, got);
  }
}

TEST_P(Ranks, TwiceIsTheSameBits) {
  for (const ClipMode mode : {ClipMode::global, ClipMode::per_rank}) {
    run_.optim.clip_mode = mode;
    const std::string name = fmt::format("mode {} ", static_cast<int>(mode));
    const TrainRun a = train_as((name + "a").c_str(), group.get()),
                   b = train_as((name + "b").c_str(), group.get());
    if (!group->root()) continue;
    EXPECT_EQ(state(a), state(b));
    EXPECT_EQ(read_file(a.out / "model.safetensors"), read_file(b.out / "model.safetensors"));
  }
}

TEST_P(Ranks, AnInterruptionChangesNothing) {
  const TrainRun whole = train_as("whole", group.get());
  run_.train.keep_checkpoints = 1;
  TrainRun halves = train_as("halves", group.get());
  if (group->root()) {  // back to step 10
    fs::remove(halves.out / "model.safetensors");
    fs::remove(checkpoint_path(halves.out / "checkpoints", 20));
    fs::copy_file(checkpoint_path(whole.out / "checkpoints", 10),
                  checkpoint_path(halves.out / "checkpoints", 10));
  }
  group->broadcast(true);
  halves = train_as("halves", group.get());
  if (!group->root()) return;
  EXPECT_EQ(state(whole), state(halves));
}

// What 10 steps of one rank left, all ranks go on with, and the other way round.
TEST_P(Ranks, AnotherNumberOfRanksContinues) {
  const TrainRun alone = train_as("alone", nullptr), shared = train_as("shared", group.get());
  for (const auto& [from, to, ranks] :
       {std::tuple{&alone, "one, then all", group.get()},
        std::tuple{&shared, "all, then one", static_cast<ProcessGroup*>(nullptr)}}) {
    if (group->root()) {
      fs::create_directories(directory_ / to / "checkpoints");
      fs::copy_file(checkpoint_path(from->out / "checkpoints", 10),
                    checkpoint_path(directory_ / to / "checkpoints", 10));
    }
    group->broadcast(true);
    const TrainRun mixed = train_as(to, ranks);
    if (!group->root()) continue;
    const State want = state(alone), got = state(mixed);
    const double rounding = amplified_rounding(alone);
    for (const auto& [name, values] : want)
      EXPECT_LE(distance(values, got.at(name)), 4 * rounding * norm_of(values))
          << to << ": " << name;
  }
}

// After the first update Muon's momentum is the gradient itself, clipped and summed over ranks.
template <class Device, class T>
void expect_clipped_and_summed(Device& device, ClipMode mode) {
  constexpr double kClip = 0.3;
  constexpr int kMicroSteps = 11;
  const ModelConfig model = testing::tiny_run("").model;
  OptimConfig optim;
  optim.clip_mode = mode;
  optim.clip_norm = kClip;
  TrainConfig train;
  train.batch_tokens = 110;
  train.micro_steps = kMicroSteps;  // unequal shares for most numbers of ranks
  train.threads = 1;
  Trainer<Device, T> trainer(device, model, optim, train, group.get());
  trainer.init();

  const int P = group->size();
  const auto share = [&](int rank) { return (kMicroSteps - rank + P - 1) / P; };
  EXPECT_EQ(trainer.own_micro_steps(), share(group->rank()));
  // Rank r's gradient: large on rank 0, small on the others.
  const auto gradient = [&](int rank) {
    std::vector<float> g(static_cast<size_t>(flat_size(model)));
    const Philox random(9, static_cast<uint64_t>(rank));
    const double size = rank == 0 ? 0.1 : 1e-4;
    for_each(weights_view(model, g.data()), [&](const char*, ParamGroup, Tensor<float> t) {
      for (float& x : t)
        x = static_cast<float>(size * random.normal(static_cast<uint64_t>(&x - g.data())));
    });
    return g;
  };
  const auto own = gradient(group->rank());
  device.upload(trainer.gradients().data, own.data(), own.size() * sizeof(float));
  const StepResult result = trainer.update({});
  std::vector<float> momentum(group->root() ? static_cast<size_t>(bank_size(model)) : 0);
  trainer.download_state("momentum", momentum);

  // Per rank: its mean gradient is clipped, and counts by its share of the micro-batches.
  std::vector<double> sum(own.size(), 0);
  double norms = 0;
  for (int r = 0; r < P; ++r) {
    const auto g = gradient(r);
    const double mean_norm = norm_of(g) * kMicroSteps / share(r);
    norms += mean_norm;
    const double factor =
        mode == ClipMode::per_rank ? std::min(1.0, kClip / (mean_norm + 1e-6)) : 1;
    for (size_t i = 0; i < g.size(); ++i) sum[i] += factor * g[i];
  }
  double norm = norms / P;
  if (mode == ClipMode::global) {
    norm = std::sqrt(std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0));
    const double factor = std::min(1.0, kClip / (norm + 1e-6));
    for (double& x : sum) x *= factor;
  }
  EXPECT_NEAR(result.grad_norm, norm, 1e-6 * norm);
  if (!group->root()) return;
  double error = 0, size = 0;
  for (size_t i = 0; i < momentum.size(); ++i) {
    error += std::pow(momentum[i] - sum[i], 2);
    size += std::pow(sum[i], 2);
  }
  // A rounding for each rank's addend, two for its clipping.
  EXPECT_LE(std::sqrt(error), (P + 2) * 0x1p-24 * std::sqrt(size));
}

class Update : public ::testing::TestWithParam<DeviceKind> {};

TEST_P(Update, ClipsAndSumsAsItsModeSays) {
  if (GetParam() == DeviceKind::cuda && !testing::gpu_for_every_rank())
    GTEST_SKIP() << "no GPU here for every rank";
  with_device(for_rank({.kind = GetParam(), .threads = 1}, *group),
              [&]<class Device, class T>(Device& device, std::type_identity<T>) {
                for (const ClipMode mode : {ClipMode::per_rank, ClipMode::global}) {
                  SCOPED_TRACE(static_cast<int>(mode));
                  expect_clipped_and_summed<Device, T>(device, mode);
                }
              });
}

INSTANTIATE_TEST_SUITE_P(Cpu, Ranks, ::testing::Values(DeviceKind::cpu));
INSTANTIATE_TEST_SUITE_P(Cpu, Update, ::testing::Values(DeviceKind::cpu));
#if FAIRWAY_WITH_CUDA
INSTANTIATE_TEST_SUITE_P(Gpu, Ranks, ::testing::Values(DeviceKind::cuda));
INSTANTIATE_TEST_SUITE_P(Gpu, Update, ::testing::Values(DeviceKind::cuda));
#endif

TEST(Sharding, EachRankKeepsItsPartOfTheBanks) {
  const ModelConfig model = testing::tiny_run("").model;
  const Shard own(model, group->rank(), group->size());
  std::vector<float> kept(static_cast<size_t>(flat_size(model)), 0);
  int64_t elements = 0;
  for (const BankSlice& b : own.banks) {
    elements += b.count * b.matrix();
    EXPECT_LE(b.count, (b.matrices + group->size() - 1) / group->size());
    for (int64_t i = 0; i < b.count * b.matrix(); ++i) ++kept[static_cast<size_t>(b.own() + i)];
  }
  EXPECT_GE(own.bank_elements, elements);
  EXPECT_LT(own.bank_elements, elements + 64 * std::ssize(own.banks));
  group->sum(std::span(kept));
  for_each(weights_view(model, kept.data()), [&](const char* name, ParamGroup g, Tensor<float> t) {
    for (float n : t) ASSERT_EQ(n, g == ParamGroup::bank ? 1 : 0) << name;
  });

  CpuDevice device(1);
  TrainConfig train;
  train.batch_tokens = 80;
  const Trainer<CpuDevice> trainer(device, model, {}, train, group.get());
  EXPECT_EQ(trainer.optim_state().momentum.size(), own.bank_elements);
  EXPECT_EQ(trainer.optim_state().ema.size(), own.size());
}

TEST(Sharding, MoreRanksThanMicroBatchesAreRefused) {
  if (group->size() == 1) return;
  TrainRun run = testing::tiny_run("");
  run.group = group.get();
  run.train.micro_steps = 1;
  EXPECT_NE(error_of([&] { train(run); }).find("micro_steps"), std::string::npos);
}

}  // namespace
}  // namespace fairway
