// Three whole training steps of the published implementation, through the shipped trainer.
#include <gtest/gtest.h>

#include "fairway/train/trainer.h"
#include "support/golden.h"

namespace fairway {
namespace {

void expect_close(const ModelConfig& model, const float* flat, std::vector<float> expected,
                  double tolerance) {
  for_each(weights_view(model, expected.data()),
           [&](const char* name, ParamGroup, Tensor<float> t) {
             EXPECT_LT(testing::relative_error(flat + (t.data - expected.data()), t.data,
                                               static_cast<size_t>(t.size())),
                       tolerance)
                 << name;
           });
}

TEST(GoldenSteps, LossNormAndParametersAgree) {
  const testing::Golden golden;
  const ModelConfig& model = golden.config;
  OptimConfig optim;
  optim.muon_momentum_warmup_steps = 10;
  TrainConfig train;
  train.batch_tokens = 96;
  train.micro_steps = 1;
  CpuDevice device(1);
  Trainer<CpuDevice> trainer(device, model, optim, train);
  trainer.warm_up(1);
  const auto initial = golden.parameters("param.");
  std::copy(initial.begin(), initial.end(), trainer.weights().data);
  std::copy(initial.begin(), initial.end(), trainer.optim_state().ema.data);

  const double factors[] = {1.0, 0.7, 0.2};
  for (int step = 0; step < 3; ++step) {
    const std::string batch = "pack.ws1.rank0.batch" + std::to_string(step) + ".";
    const std::string here = "opt.step" + std::to_string(step) + ".";
    const auto result = trainer.step({step, factors[step], true}, [&] {
      return PackedBatch{golden.ints(batch + "inputs"), golden.ints(batch + "targets"),
                         golden.ints(batch + "cu_seqlens")};
    });
    ASSERT_TRUE(result.has_value());
    EXPECT_NEAR(result->loss, golden.floats(here + "loss")[0], 1e-5 * result->loss);
    EXPECT_NEAR(result->grad_norm, golden.floats(here + "grad_norm")[0], 1e-4 * result->grad_norm);
    expect_close(model, trainer.weights().data, golden.parameters(here + "param."), 1e-4);
  }
  expect_close(model, trainer.optim_state().ema.data, golden.parameters("opt.ema."), 1e-4);
}

}  // namespace
}  // namespace fairway
