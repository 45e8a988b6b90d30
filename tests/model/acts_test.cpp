// What a forward pass alone takes: the streams that its route needs, and the same comes out as with
// those that a backward pass needs too.
#include "fairway/model/acts.h"

#include <gtest/gtest.h>

#include <map>

#include "fairway/base/rng.h"
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

class ForwardActs : public ::testing::TestWithParam<std::tuple<int, bool, bool>> {};

TEST_P(ForwardActs, NoMoreStreamsThanTheRouteNeeds) {
  const auto [parallel_start_layer, looped, picks] = GetParam();
  ModelConfig config = testing::small_model(/*vocab_size=*/11);
  config.num_layers = 6;
  config.parallel_start_layer = parallel_start_layer;
  config.validate();
  std::vector<double> params(static_cast<size_t>(flat_size(config)));
  const Philox rng(7, 0);
  for (size_t i = 0; i < params.size(); ++i) params[i] = rng.normal(i);
  const auto weights = weights_view(config, static_cast<const double*>(params.data()));
  CpuDevice device(1);
  testing::ModelRun<double> run(device, config, looped, kInputs,
                                picks ? std::vector<int32_t>{5, 1} : kTargets, kStarts,
                                picks ? kScored : std::vector<int32_t>{});
  run.loss(weights);
  const auto want = run.nll;

  const auto take = [&](Arena& arena) {
    return take_acts<double>(config, run.net.route, run.batch.T(), run.batch.N(),
                             /*for_backward=*/false, arena);
  };
  Arena dry;
  take(dry);
  const HostBuffer memory(dry.peak());
  Arena arena(memory.data(), dry.peak());
  run.acts = take(arena);
  EXPECT_EQ(arena.peak(), dry.peak());
  run.loss(weights);
  EXPECT_EQ(run.nll, want);

  size_t taken = 0, used = 0;
  for (const auto& [name, bytes] : dry.names())
    if (name == "residual stream") taken = bytes;
  for (const auto& [data, bytes] : streams_of(run.acts)) used += bytes;
  EXPECT_EQ(taken, used);
}

std::string name_of(const ::testing::TestParamInfo<std::tuple<int, bool, bool>>& param) {
  const auto [lanes, looped, picks] = param.param;
  return (lanes > 0 ? fmt::format("lanes_from_{}", lanes) : "serial") + (looped ? "_looped" : "") +
         (picks ? "_picks" : "");
}
INSTANTIATE_TEST_SUITE_P(Routes, ForwardActs,
                         ::testing::Combine(::testing::Values(0, 3, 5), ::testing::Bool(),
                                            ::testing::Bool()),
                         name_of);

}  // namespace
}  // namespace fairway
