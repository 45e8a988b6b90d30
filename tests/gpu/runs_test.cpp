// Whole runs on a GPU: the same bits every time and for any batching, and what the CPU gets.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "eval/support.h"
#include "fairway/base/fields.h"
#include "fairway/base/rng.h"
#include "fairway/data/packing.h"
#include "fairway/eval/evaluate.h"
#include "fairway/model/device_weights.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/optim/optimizer.h"
#include "fairway/train/trainer.h"
#include "support/model_run.h"

namespace fairway {
namespace {

#if FAIRWAY_WITH_CUDA

class GpuRuns : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  }
};

// Small, but with everything that the record has, in widths that Hopper's kernels take.
ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 512;
  c.num_layers = 5;
  c.model_dim = 256;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.max_doc_len = 300;
  c.num_loops = 1;
  c.loop_start = 1;
  c.loop_end = 2;
  c.parallel_start_layer = 4;
  return c;
}

// Documents of many lengths, in which each token depends on the one before it.
std::vector<int32_t> text(int64_t tokens, uint64_t seed) {
  const Philox rng(seed, 0);
  std::vector<int32_t> out;
  uint64_t drawn = 0;
  while (std::ssize(out) < tokens) {
    const auto length = static_cast<int64_t>(rng.below(drawn++, 700)) + 1;
    int64_t token = 1;
    for (int64_t i = 0; i < length; ++i) {
      out.push_back(static_cast<int32_t>(token));
      token = 2 + (token * 37 + static_cast<int64_t>(rng.below(drawn++, 4))) % 510;
    }
  }
  out.resize(static_cast<size_t>(tokens));
  return out;
}

PackedBatch batch_of(int64_t tokens, uint64_t seed, int64_t max_doc_len, int64_t bucket = 64) {
  const auto stream = text(tokens + 1, seed);
  PackedBatch batch;
  batch.inputs.assign(stream.begin(), stream.end() - 1);
  batch.targets.assign(stream.begin() + 1, stream.end());
  batch.cu_seqlens = make_cu_seqlens(batch.inputs, 1, max_doc_len, bucket);
  return batch;
}

struct TrainedRun {
  std::vector<double> losses, norms;
  std::vector<float> weights, ema;
  bool operator==(const TrainedRun&) const = default;
};

// The route changes half-way. `bucket`: of cu_seqlens, see make_cu_seqlens.
template <class Device, class T>
TrainedRun trained(Device& device, int steps, int64_t bucket = 64,
                   MatmulPrecision precision = MatmulPrecision::automatic) {
  const ModelConfig model = small_model();
  OptimConfig optim;
  optim.muon_momentum_warmup_steps = 50;
  TrainConfig train;
  train.batch_tokens = 4096;
  train.micro_steps = 2;
  train.matmul_precision = precision;
  Trainer<Device, T> trainer(device, model, optim, train);
  trainer.warm_up(2);
  trainer.init();
  TrainedRun run;
  uint64_t seed = 100;
  for (int step = 0; step < steps; ++step) {
    const auto result = trainer.step({step, 1.0, step >= steps / 2}, [&] {
      return batch_of(train.micro_batch_tokens(), seed++, model.max_doc_len, bucket);
    });
    run.losses.push_back(result->loss);
    run.norms.push_back(result->grad_norm);
  }
  run.weights = testing::host_values(device, trainer.weights());
  run.ema = testing::host_values(device, trainer.optim_state().ema);
  return run;
}

// And something has been learned.
void expect_same_bits_twice(MatmulPrecision precision) {
  CudaDevice first, second;
  const TrainedRun a = trained<CudaDevice, bf16>(first, 200, 64, precision);
  const TrainedRun b = trained<CudaDevice, bf16>(second, 200, 64, precision);
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.weights, b.weights);
  EXPECT_EQ(a.ema, b.ema);
  EXPECT_LT(a.losses.back(), 0.6 * a.losses.front());
}
TEST_F(GpuRuns, TwoHundredStepsTwiceAreTheSameBits) {
  expect_same_bits_twice(MatmulPrecision::bfloat16);
}
TEST_F(GpuRuns, TwoHundredStepsInFloat8TwiceAreTheSameBits) {
  expect_same_bits_twice(MatmulPrecision::float8);
}

// Graphs of both routes and of several numbers of segments, replayed in turn.
template <class T>
void expect_graphs_change_nothing(MatmulPrecision precision = MatmulPrecision::automatic) {
  constexpr int kSteps = 24, kBucket = 4;
  CudaDevice with, without;
  without.use_graphs(false);
  const TrainedRun a = trained<CudaDevice, T>(with, kSteps, kBucket, precision);
  const TrainedRun b = trained<CudaDevice, T>(without, kSteps, kBucket, precision);
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  EXPECT_TRUE(a == b);
}
TEST_F(GpuRuns, GraphsChangeNothingInBf16) {
  expect_graphs_change_nothing<bf16>();
}
TEST_F(GpuRuns, GraphsChangeNothingInFloat32) {
  expect_graphs_change_nothing<float>();
}

TEST_F(GpuRuns, GraphsChangeNothingInFloat8) {
  expect_graphs_change_nothing<bf16>(MatmulPrecision::float8);
}

// A loss that is not finite leaves weights and state as they were, and the next step is sound.
TEST_F(GpuRuns, ANotFiniteStepChangesNothing) {
  const ModelConfig model = small_model();
  TrainConfig train;
  train.batch_tokens = 4096;
  train.micro_steps = 2;
  CudaDevice device;
  Trainer<CudaDevice, bf16> trainer(device, model, OptimConfig{}, train);
  trainer.init();
  uint64_t seed = 1;
  const auto finite = [&] {
    const auto result = *trainer.step({0, 1.0, false}, [&] {
      return batch_of(train.micro_batch_tokens(), seed++, model.max_doc_len);
    });
    return std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  };
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(finite());
  const auto sound = testing::host_values(device, trainer.weights());
  auto broken = sound;
  broken[0] = NAN;
  trainer.upload_state("weights", broken);
  EXPECT_FALSE(finite());
  const auto after = testing::host_values(device, trainer.weights());
  EXPECT_TRUE(std::equal(after.begin() + 1, after.end(), broken.begin() + 1));
  trainer.upload_state("weights", sound);
  EXPECT_TRUE(finite());
}

// The updates' directions pass through bf16 products on the GPU, whatever T is: a step's update
// errs by about 2^-8, and losses drift apart by as much of what has been learned so far.
TEST_F(GpuRuns, TrainingFollowsTheCpu) {
  constexpr int kSteps = 20;
  CpuDevice cpu;
  CudaDevice gpu;
  const TrainedRun want = trained<CpuDevice, float>(cpu, kSteps);
  const TrainedRun in_float = trained<CudaDevice, float>(gpu, kSteps);
  const TrainedRun in_bf16 = trained<CudaDevice, bf16>(gpu, kSteps);
  EXPECT_NEAR(in_float.losses[0], want.losses[0], 1e-5 * want.losses[0]);
  EXPECT_NEAR(in_float.norms[0], want.norms[0], 1e-4 * want.norms[0]);
  EXPECT_NEAR(in_bf16.norms[0], want.norms[0], 0x1p-5 * want.norms[0]);
  for (size_t i = 0; i < kSteps; ++i) {
    const double learned = 0x1p-9 * want.losses[0] + std::fabs(want.losses[0] - want.losses[i]);
    EXPECT_NEAR(in_float.losses[i], want.losses[i], 0x1p-6 * learned + 1e-5) << "step " << i;
    EXPECT_NEAR(in_bf16.losses[i], want.losses[i], 0x1p-4 * learned) << "step " << i;
  }
}

// The same operands of the MLP's products, but for those that lie so near to the middle between two
// values of e4m3 that other errors decide: in float32 few at first, more as weights drift apart.
TEST_F(GpuRuns, TrainingInFloat8FollowsTheCpu) {
  constexpr int kSteps = 20;
  constexpr auto kFloat8 = MatmulPrecision::float8;
  CpuDevice cpu;
  CudaDevice gpu;
  const TrainedRun want = trained<CpuDevice, float>(cpu, kSteps, 64, kFloat8);
  const TrainedRun in_float = trained<CudaDevice, float>(gpu, kSteps, 64, kFloat8);
  const TrainedRun in_bf16 = trained<CudaDevice, bf16>(gpu, kSteps, 64, kFloat8);
  EXPECT_NEAR(in_float.losses[0], want.losses[0], 0x1p-13 * want.losses[0]);
  EXPECT_NEAR(in_float.norms[0], want.norms[0], 0x1p-10 * want.norms[0]);
  EXPECT_NEAR(in_bf16.norms[0], want.norms[0], 0x1p-4 * want.norms[0]);
  for (size_t i = 0; i < kSteps; ++i) {
    const double learned = 0x1p-8 * want.losses[0] + std::fabs(want.losses[0] - want.losses[i]);
    EXPECT_NEAR(in_float.losses[i], want.losses[i], 0x1p-5 * learned) << "step " << i;
    EXPECT_NEAR(in_bf16.losses[i], want.losses[i], 0x1p-4 * learned) << "step " << i;
  }
}

// One update from the same weights, gradients and state.
TEST_F(GpuRuns, AnOptimizerStepIsTheCpus) {
  const ModelConfig model = small_model();
  const auto n = static_cast<size_t>(flat_size(model));
  const auto step = [&]<class Device>(Device& device) {
    Sharding sharding(model, make_single_communicator());
    Arena dry;
    const auto lay_out = [&](Arena& arena) {
      struct {
        Tensor<float> weights, gradients;
        OptimState state;
        Tensor<std::byte> scratch;
      } b;
      b.weights = arena.take<float>("", {static_cast<int64_t>(n)});
      b.gradients = arena.take<float>("", {static_cast<int64_t>(n)});
      b.state = take_optim_state(sharding.shard(), arena);
      b.scratch =
          arena.take<std::byte>("", {static_cast<int64_t>(optim_scratch_bytes(sharding.shard()))});
      return b;
    };
    lay_out(dry);
    const auto memory = device.allocate(dry.peak());
    Arena arena(memory.data(), memory.bytes());
    const auto b = lay_out(arena);
    const auto fill = [&](Tensor<float> t, uint64_t stream, double size, double mean) {
      const Philox rng(3, stream);
      std::vector<float> values(static_cast<size_t>(t.size()));
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(mean + size * rng.uniform(i));
      device.upload(t.data, values.data(), values.size() * sizeof(float));
    };
    fill(b.weights, 0, 2, -1);
    fill(b.gradients, 1, 2e-3, -1e-3);
    fill(b.state.momentum, 2, 2e-3, -1e-3);
    fill(b.state.adam_m, 3, 2e-3, -1e-3);
    fill(b.state.adam_v, 4, 1e-6, 1e-9);
    fill(b.state.ema, 5, 2, -1);
    const auto sum_memory = device.allocate(sizeof(double));
    auto* const sum = reinterpret_cast<double*>(sum_memory.data());
    add_squares(device, b.gradients.size(), b.gradients.data, sum);
    double squares = 0;
    device.download(&squares, sum, sizeof squares);
    const double norm = std::sqrt(squares);
    clip_grad(device, b.gradients.size(), b.gradients.data, norm, 0.3);
    optimizer_step(device, model, OptimConfig{}, 10, 0.7, b.weights.data, b.gradients.data, b.state,
                   sharding, Arena(b.scratch.data, static_cast<size_t>(b.scratch.size())));
    std::map<std::string, std::vector<float>> all;
    all["weights"] = testing::host_values(device, b.weights);
    for_each(b.state, [&](const char* name, Tensor<float> t) {
      all[name] = testing::host_values(device, t);
    });
    all["norm"] = {static_cast<float>(norm)};
    return all;
  };
  CpuDevice cpu;
  CudaDevice gpu;
  const auto want = step(cpu), got = step(gpu);
  for (const auto& [name, values] : want) {
    // What Newton-Schulz adds to weights and their average errs by its bf16 products.
    const bool muon = name == "weights" || name == "ema";
    EXPECT_LT(testing::relative_error(got.at(name), values, values.size()), muon ? 0x1p-10 : 1e-6)
        << name;
  }
  // The same, of what has changed: each group of parameters.
  std::vector<float> start(n);
  const Philox rng(3, 0);
  for (size_t i = 0; i < n; ++i) start[i] = static_cast<float>(-1 + 2 * rng.uniform(i));
  for_each(weights_view(model, start.data()),
           [&](const char* name, ParamGroup group, Tensor<float> t) {
             const auto at = static_cast<size_t>(t.data - start.data());
             double error = 0, moved = 0;
             for (size_t i = at; i < at + static_cast<size_t>(t.size()); ++i) {
               error += std::pow(double{got.at("weights")[i]} - want.at("weights")[i], 2);
               moved += std::pow(double{want.at("weights")[i]} - start[i], 2);
             }
             EXPECT_GT(moved, 0) << name;
             EXPECT_LT(std::sqrt(error / moved), group == ParamGroup::bank ? 0.05 : 1e-4) << name;
           });
}

// As initialized, but for what starts at zero: without it attention and MLPs would add nothing.
std::vector<float> weights_to_score(const ModelConfig& model) {
  std::vector<float> flat(static_cast<size_t>(flat_size(model)));
  CpuDevice cpu;
  init_weights(cpu, model, 7, flat.data());
  const auto w = weights_view(model, flat.data());
  const Philox rng(11, 0);
  uint64_t drawn = 0;
  for (int64_t i = 0; i < w.layers(); ++i)
    for (const Tensor<float>& matrix : {w.wo(i), w.wdown(i)})
      for (int64_t j = 0; j < matrix.size(); ++j)
        matrix.data[j] = static_cast<float>(0.05 * rng.normal(drawn++));
  return flat;
}

template <class T>
std::vector<float> scores(const std::vector<uint16_t>& tokens, EvalMode mode, int batch_docs,
                          bool graphs = true,
                          MatmulPrecision precision = MatmulPrecision::automatic) {
  CudaDevice device;
  device.use_graphs(graphs);
  const ModelConfig model = small_model();
  const std::vector<float> flat = weights_to_score(model);
  const DeviceWeights<CudaDevice, T> weights(device, model, flat.data());
  EvalConfig eval;
  eval.mode = mode;
  eval.window = 256;
  eval.stride = 64;
  eval.matmul_precision = precision;
  TttConfig ttt;
  ttt.rank = 16;
  ttt.lr = 0.003;
  ttt.window = 256;
  ttt.batch_docs = batch_docs;
  return evaluate(device, model, weights.view(), eval_test::StreamOf(tokens), eval_test::kBos,
                  nullptr, eval, ttt, *make_single_process(), {})
      .nll;
}

TEST_F(GpuRuns, TestTimeTrainingIsTheSameBitsForAnyBatching) {
  const auto wide = text(3000, 5);
  const std::vector<uint16_t> tokens(wide.begin(), wide.end());
  for (const auto precision : {MatmulPrecision::automatic, MatmulPrecision::float8}) {
    SCOPED_TRACE(enum_name(precision));
    const auto together = scores<bf16>(tokens, EvalMode::ttt, 64, /*graphs=*/true, precision);
    EXPECT_EQ(scores<bf16>(tokens, EvalMode::ttt, 1, /*graphs=*/true, precision), together);
    EXPECT_EQ(scores<bf16>(tokens, EvalMode::ttt, 3, /*graphs=*/true, precision), together);
  }
}

// Batch after batch of documents whose windows grow alike, chunk by chunk.
TEST_F(GpuRuns, GraphsChangeNoScore) {
  const auto wide = text(6000, 9);
  const std::vector<uint16_t> tokens(wide.begin(), wide.end());
  for (const EvalMode mode : {EvalMode::chunked, EvalMode::sliding, EvalMode::ttt})
    for (const int batch_docs : {1, 3}) {
      EXPECT_EQ(scores<bf16>(tokens, mode, batch_docs),
                scores<bf16>(tokens, mode, batch_docs, /*graphs=*/false));
      EXPECT_EQ(scores<float>(tokens, mode, batch_docs),
                scores<float>(tokens, mode, batch_docs, /*graphs=*/false));
      EXPECT_EQ(scores<bf16>(tokens, mode, batch_docs, /*graphs=*/true, MatmulPrecision::float8),
                scores<bf16>(tokens, mode, batch_docs, /*graphs=*/false, MatmulPrecision::float8));
    }
}

TEST_F(GpuRuns, NoTokenSeesALaterOne) {
  const auto wide = text(1500, 6);
  std::vector<uint16_t> tokens(wide.begin(), wide.end());
  for (const EvalMode mode : {EvalMode::chunked, EvalMode::sliding, EvalMode::ttt})
    for (const auto precision : {MatmulPrecision::automatic, MatmulPrecision::float8}) {
      SCOPED_TRACE(enum_name(precision));
      const auto before = scores<bf16>(tokens, mode, 64, /*graphs=*/true, precision);
      auto changed = tokens;
      constexpr size_t kAt = 700;
      changed[kAt] = static_cast<uint16_t>(2 + (changed[kAt] + 11) % 500);
      const auto after = scores<bf16>(changed, mode, 64, /*graphs=*/true, precision);
      for (size_t t = 0; t + 1 < kAt; ++t) ASSERT_EQ(before[t], after[t]) << "token " << t;
      EXPECT_NE(before, after);
    }
}

TEST_F(GpuRuns, ScoresAreTheCpus) {
  const auto wide = text(1200, 8);
  const std::vector<uint16_t> tokens(wide.begin(), wide.end());
  const ModelConfig model = small_model();
  const std::vector<float> flat = weights_to_score(model);
  CpuDevice cpu;
  EvalConfig eval;
  eval.mode = EvalMode::chunked;
  const auto of_cpu = [&] {
    return evaluate(cpu, model, weights_view<const float>(model, flat.data()),
                    eval_test::StreamOf(tokens), eval_test::kBos, nullptr, eval, {},
                    *make_single_process(), {})
        .nll;
  };
  const auto want = of_cpu();
  const auto in_float = scores<float>(tokens, EvalMode::chunked, 64);
  const auto in_bf16 = scores<bf16>(tokens, EvalMode::chunked, 64);
  EXPECT_LT(testing::relative_error(in_float, want, want.size()), 1e-5);
  EXPECT_LT(testing::relative_error(in_bf16, want, want.size()), 0x1p-6);
  // The same operands in float8, but for few that lie so near to the middle between two of its
  // values that another error decides: what float8 moves, it moves by as much.
  constexpr auto kFloat8 = MatmulPrecision::float8;
  eval.matmul_precision = kFloat8;
  const auto want_float8 = of_cpu();
  const auto float_float8 = scores<float>(tokens, EvalMode::chunked, 64, true, kFloat8);
  const auto bf16_float8 = scores<bf16>(tokens, EvalMode::chunked, 64, true, kFloat8);
  const double moved = testing::relative_error(want_float8, want, want.size());
  EXPECT_GT(moved, 1e-5);
  EXPECT_LT(testing::relative_error(float_float8, want_float8, want.size()), 0x1p-3 * moved);
  EXPECT_LT(testing::relative_error(bf16_float8, want_float8, want.size()), 0x1p-6);
}

#endif

}  // namespace
}  // namespace fairway
