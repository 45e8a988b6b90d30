// Three whole training steps of the published implementation, through the shipped trainer.
#include <gtest/gtest.h>

#include <cmath>

#include "fairway/train/trainer.h"
#include "optim/golden_flat.h"

namespace fairway {
namespace {

// ‖a − b‖/‖b‖ over one tensor of two flat buffers.
double distance(const float* a, const float* b, int64_t n) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    difference += std::pow(double{a[i]} - double{b[i]}, 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

void expect_close(const ModelConfig& model, const float* flat, std::vector<float> expected,
                  double tolerance) {
  for_each(
      weights_view(model, expected.data()), [&](const char* name, ParamGroup, Tensor<float> t) {
        EXPECT_LT(distance(flat + (t.data - expected.data()), t.data, t.size()), tolerance) << name;
      });
}

TEST(GoldenSteps, LossNormAndParametersAgree) {
  const SafetensorsFile golden(FAIRWAY_TEST_DATA "/golden/a.safetensors");
  const ModelConfig model = golden_model();
  OptimConfig optim;
  optim.muon_momentum_warmup_steps = 10;
  TrainConfig train;
  train.batch_tokens = 96;
  train.micro_steps = 1;
  CpuDevice device(1);
  Trainer<CpuDevice> trainer(device, model, optim, train);
  trainer.warm_up(1);
  const auto initial = golden_flat(golden, "param.");
  std::copy(initial.begin(), initial.end(), trainer.weights().data);
  std::copy(initial.begin(), initial.end(), trainer.optim_state().ema.data);

  const double factors[] = {1.0, 0.7, 0.2};
  for (int step = 0; step < 3; ++step) {
    const std::string batch = "pack.ws1.rank0.batch" + std::to_string(step) + ".";
    const std::string here = "opt.step" + std::to_string(step) + ".";
    const auto result = trainer.step({step, factors[step], true}, [&] {
      return PackedBatch{golden.read<int32_t>(batch + "inputs"),
                         golden.read<int32_t>(batch + "targets"),
                         golden.read<int32_t>(batch + "cu_seqlens")};
    });
    ASSERT_TRUE(result.has_value());
    EXPECT_NEAR(result->loss, golden.read<float>(here + "loss")[0], 1e-5 * result->loss);
    EXPECT_NEAR(result->grad_norm, golden.read<float>(here + "grad_norm")[0],
                1e-4 * result->grad_norm);
    expect_close(model, trainer.weights().data, golden_flat(golden, here + "param."), 1e-4);
  }
  expect_close(model, trainer.optim_state().ema.data, golden_flat(golden, "opt.ema."), 1e-4);
}

}  // namespace
}  // namespace fairway
