#include "fairway/plan/memory.h"

#include <gtest/gtest.h>

#include <map>

#include "fairway/device/cpu_device.h"
#include "fairway/model/weights.h"
#include "fairway/train/trainer.h"
#include "small_run.h"

namespace fairway {
namespace {

std::map<std::string, int64_t> by_name(const MemoryByName& memory) {
  return {memory.begin(), memory.end()};
}

TEST(RankMemory, OneRankIsWhatTheTrainerTakes) {
  PlanInputs in = small_run();
  in.train.device = DeviceKind::cpu;
  CpuDevice device(1);
  const Trainer<CpuDevice> trainer(device, in.model, in.optim, in.train);

  const MemoryByName memory = rank_memory(in.model, in.train, 1);
  int64_t sum = 0;
  for (const auto& [name, bytes] : memory) sum += bytes;
  EXPECT_EQ(sum, static_cast<int64_t>(trainer.memory_bytes()));

  std::map<std::string, int64_t> taken;
  for (const auto& [name, bytes] : trainer.memory().names())
    taken[name] = static_cast<int64_t>(bytes);
  EXPECT_EQ(by_name(memory), taken);
  EXPECT_GT(taken["MLP hidden"], 0);
}

TEST(RankMemory, InBfloat16ProductsReadRoundedMatrices) {
  const PlanInputs in = small_run();
  auto memory = by_name(rank_memory(in.model, in.train, 1));
  EXPECT_EQ(memory["matrices for products"], 2 * matrices_size(in.model));
  EXPECT_EQ(memory["weights"], 4 * flat_size(in.model));
  PlanInputs exact = in;
  exact.train.matmul_precision = MatmulPrecision::float32;
  auto floats = by_name(rank_memory(exact.model, exact.train, 1));
  EXPECT_EQ(floats.count("matrices for products"), 0u);
  EXPECT_EQ(floats["residual stream"], 2 * memory["residual stream"]);
}

TEST(RankMemory, Float8KeepsItsOperandsOfTheMlpBesideTheMatrices) {
  PlanInputs in = small_run();
  auto without = by_name(rank_memory(in.model, in.train, 1));
  in.train.matmul_precision = MatmulPrecision::float8;
  auto memory = by_name(rank_memory(in.model, in.train, 1));
  const ModelConfig& c = in.model;
  // Wup and Wdown in bf16, or twice in e4m3; six exponents a layer, in whole pieces of an arena.
  const int64_t matrices = int64_t{2} * c.num_layers * c.model_dim * c.mlp_dim();
  EXPECT_EQ(memory["e4m3 matrices"], 2 * matrices + (4 * 6 * c.num_layers + 255) / 256 * 256);
  memory.erase("e4m3 matrices");
  memory.erase("MLP hidden"), without.erase("MLP hidden");
  EXPECT_EQ(memory, without);
}

// On a GPU a byte for f and one for z where Hopper has tiles for the widths, or z itself in bf16;
// on a CPU z in float. No signs.
TEST(RankMemory, Float8KeepsTwoBytesOfAHiddenElementOnAGpu) {
  PlanInputs in = small_run();
  const auto hidden = [&](MatmulPrecision precision) {
    in.train.matmul_precision = precision;
    return by_name(rank_memory(in.model, in.train, 1))["MLP hidden"];
  };
  for (const int width : {96, 128}) {
    in.model.model_dim = width;
    const int64_t elements = static_cast<int64_t>(make_route(in.model, true).size()) *
                             in.train.micro_batch_tokens() * in.model.mlp_dim();
    in.train.device = DeviceKind::cuda;
    EXPECT_EQ(hidden(MatmulPrecision::float8), 2 * elements) << width;
    EXPECT_GT(hidden(MatmulPrecision::bfloat16), 2 * elements) << width;
    in.train.device = DeviceKind::cpu;
    EXPECT_EQ(hidden(MatmulPrecision::float8), 4 * elements) << width;
  }
}

TEST(RankMemory, BanksStateIsSharedOutInWholeMatrices) {
  const PlanInputs in = small_run();
  const int64_t flat = flat_size(in.model), banks = bank_size(in.model);
  const auto at = [&](int ranks) { return by_name(rank_memory(in.model, in.train, ranks)); };
  EXPECT_EQ(at(1)["Muon momentum"], 4 * banks);
  // Two of 8, two of 8, one of 4, one of 4.
  EXPECT_EQ(at(4)["Muon momentum"], banks);
  EXPECT_EQ(at(4)["moving average"], banks + 4 * (flat - banks));
  // Three of 8 and two of 4.
  EXPECT_EQ(at(3)["Muon momentum"], 4 * (3 * 1024 + 3 * 512 + 2 * 4096 + 2 * 4096));
  // One of each: more ranks than matrices take no less.
  EXPECT_EQ(at(8)["Muon momentum"], 4 * (1024 + 512 + 4096 + 4096));
  EXPECT_EQ(at(1024), at(8));
  // Nothing else changes.
  auto one = at(1), many = at(8);
  for (const char* name : {"Muon momentum", "moving average"}) one.erase(name), many.erase(name);
  EXPECT_EQ(one, many);
}

}  // namespace
}  // namespace fairway
