// What a forward pass alone takes: the streams that its route needs, and the same comes out as with
// those that a backward pass needs too.
#include "fairway/model/acts.h"

#include <gtest/gtest.h>

#include <map>

#include "support/model_run.h"
#include "support/small_model.h"

namespace fairway {
namespace {

const std::vector<int32_t> kInputs{1, 4, 9, 2, 3, 5}, kTargets{4, 9, 2, 3, 5, 1}, kStarts{0, 6},
    kScored{4, 5};

// Streams by where they lie, with their bytes.
std::map<const double*, size_t> streams_of(const Acts<double>& acts) {
  std::map<const double*, size_t> out;
  const auto add = [&](Tensor<double> t) {
    if (t) out[t.data] = (static_cast<size_t>(t.size()) * sizeof(double) + 255) / 256 * 256;
  };
  for (const auto& v : acts.visits)
    for (const auto& t : {v.x_pre, v.x, v.lane1, v.a, v.m, v.picked.x, v.picked.lane1}) add(t);
  add(acts.final_x);
  return out;
}

class ForwardActs : public ::testing::TestWithParam<std::tuple<int, bool, bool, E4m3Mlp>> {};

TEST_P(ForwardActs, NoMoreStreamsThanTheRouteNeeds) {
  const auto [parallel_start_layer, looped, picks, mlp] = GetParam();
  ModelConfig config = testing::small_model(/*vocab_size=*/11);
  config.num_layers = 6;
  config.parallel_start_layer = parallel_start_layer;
  config.validate();
  const std::vector<double> params = testing::random_params(config);
  const auto weights = weights_view(config, params.data());
  CpuDevice device(1);
  testing::ModelRun<double> run(device, config, looped, kInputs,
                                picks ? std::vector<int32_t>{5, 1} : kTargets, kStarts,
                                picks ? kScored : std::vector<int32_t>{}, nullptr, mlp);
  run.loss(weights);
  const auto want = run.nll;

  const auto take = [&, mlp = mlp](Arena& arena) {
    return take_acts<double>(config, run.net.route, run.batch.T(), run.batch.N(),
                             /*for_backward=*/false, arena, nullptr, mlp);
  };
  Arena dry;
  take(dry);
  const HostBuffer memory(dry.peak());
  Arena arena(memory.data(), dry.peak());
  const FoldedWeights<double> folded = run.acts.folded;
  run.acts = take(arena);
  run.acts.folded = folded;
  EXPECT_EQ(arena.peak(), dry.peak());
  run.loss(weights);
  EXPECT_EQ(run.nll, want);

  size_t taken = 0, used = 0;
  for (const auto& [name, bytes] : dry.names()) {
    if (name == "residual stream") taken = bytes;
    EXPECT_NE(name, "MLP hidden");
  }
  for (const auto& [data, bytes] : streams_of(run.acts)) used += bytes;
  EXPECT_EQ(taken, used);
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<int, bool, bool, E4m3Mlp>>& param) {
  const auto [lanes, looped, picks, mlp] = param.param;
  return (lanes > 0 ? fmt::format("lanes_from_{}", lanes) : "serial") + (looped ? "_looped" : "") +
         (picks ? "_picks" : "") + (mlp == E4m3Mlp::off ? "" : "_e4m3");
}
INSTANTIATE_TEST_SUITE_P(Routes, ForwardActs,
                         ::testing::Combine(::testing::Values(0, 3, 5), ::testing::Bool(),
                                            ::testing::Bool(),
                                            ::testing::Values(E4m3Mlp::off, E4m3Mlp::values)),
                         name_of);

// What test-time training keeps with e4m3 operands: of each hidden element a byte instead of two
// and a bit, and both matrices of each layer once more.
TEST(TakeActs, E4m3BesideAdaptersKeepsBytes) {
  const ModelConfig config = testing::small_model(/*vocab_size=*/11);
  const Route route = make_route(config, true);
  const LoraConfig lora{.rank = 8};
  const int64_t rows = 64, F = config.mlp_dim(), L = config.num_layers;
  const auto bytes_of = [&](E4m3Mlp mlp) {
    Arena dry;
    take_folded<bf16>(config, mlp, dry);
    take_acts<bf16>(config, route, rows, rows, /*for_backward=*/true, dry, &lora, mlp);
    std::map<std::string, int64_t> bytes;
    for (const auto& [name, size] : dry.names())
      bytes[std::string(name)] = static_cast<int64_t>(size);
    return bytes;
  };
  const auto off = bytes_of(E4m3Mlp::off), on = bytes_of(E4m3Mlp::bytes);
  const auto whole = [](int64_t n) { return (n + 255) / 256 * 256; };
  const auto visits = static_cast<int64_t>(route.size());
  EXPECT_EQ(
      off.at("MLP hidden") - on.at("MLP hidden"),
      visits * (whole(2 * rows * F) + whole(4 * mlp_sign_words<bf16>(rows, F)) - whole(rows * F)));
  EXPECT_EQ(on.at("e4m3 matrices"),
            2 * whole(2 * L * F * config.model_dim) + whole(4 * L * kE4m3Exponents));
  for (const auto& [name, bytes] : off) {
    if (name == "MLP hidden") continue;
    EXPECT_EQ(on.at(name), bytes) << name;
  }
}

}  // namespace
}  // namespace fairway
