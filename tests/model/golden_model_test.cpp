// The model against the published implementation's tensors, at the tolerances tests/golden states.
#include <gtest/gtest.h>

#include "fairway/model/model.h"
#include "support/golden.h"
#include "support/model_run.h"

namespace fairway {
namespace {

using testing::Golden;
using testing::ModelRun;
using testing::relative_error;

class GoldenModel : public ::testing::TestWithParam<bool> {
 protected:
  GoldenModel()
      : looped(GetParam()),
        prefix(looped ? "loop." : "noloop."),
        run(device, golden.config, looped, golden.ints("pack.ws1.rank0.batch0.inputs"),
            golden.ints("pack.ws1.rank0.batch0.targets"),
            golden.ints("pack.ws1.rank0.batch0.cu_seqlens")),
        params(golden.parameters("param.")) {}

  Weights<const float> weights() const {
    return weights_view(golden.config, static_cast<const float*>(params.data()));
  }

  CpuDevice device{2};
  Golden golden;
  bool looped;
  std::string prefix;
  ModelRun<float> run;
  std::vector<float> params;
};

TEST_P(GoldenModel, RouteMatches) {
  if (!looped) return;
  const auto encoder = nlohmann::json::parse(golden.file().metadata().at("encoder_indices"));
  const auto decoder = nlohmann::json::parse(golden.file().metadata().at("decoder_indices"));
  std::vector<int> expected = encoder, layers;
  expected.insert(expected.end(), decoder.begin(), decoder.end());
  for (const Visit& v : run.net.route) layers.push_back(v.layer);
  EXPECT_EQ(layers, expected);
  EXPECT_EQ(num_skip_weights(golden.config),
            std::stoi(golden.file().metadata().at("num_skip_weights")));
}

TEST_P(GoldenModel, ForwardMatches) {
  run.loss(weights());
  const auto nll = golden.floats("fwd." + prefix + "nll");
  EXPECT_LT(relative_error(run.nll, nll, nll.size()), 1e-5);
  // Each use of each layer, in order of use.
  std::vector<int> uses(static_cast<size_t>(golden.config.num_layers), 0);
  for (int s = 0; s < run.net.slots(); ++s) {
    const int layer = run.net.route[static_cast<size_t>(s)].layer;
    const std::string use =
        std::to_string(layer) + ".use" + std::to_string(uses[static_cast<size_t>(layer)]++);
    const auto& v = run.acts.visits[static_cast<size_t>(s)];
    const auto attn = golden.floats("fwd." + prefix + "attn" + use);
    EXPECT_LT(relative_error(v.a, attn, attn.size()), 1e-5) << "attention, visit " << s;
    const auto mlp = golden.floats("fwd." + prefix + "mlp" + use);
    EXPECT_LT(relative_error(v.m, mlp, mlp.size()), 1e-5) << "MLP, visit " << s;
  }
}

TEST_P(GoldenModel, GradientsMatch) {
  std::vector<float> gradients(params.size(), 0.0f);
  const Weights<float> dw = weights_view(golden.config, gradients.data());
  run.loss(weights(), nullptr, &dw);
  const auto expected = golden.parameters("grad." + prefix);
  const Weights<const float> dw_expected =
      weights_view(golden.config, static_cast<const float*>(expected.data()));
  for_each(dw, [&](const std::string& name, ParamGroup, Tensor<float> got) {
    for_each(dw_expected, [&](const std::string& other, ParamGroup, Tensor<const float> want) {
      if (name == other) {
        EXPECT_LT(relative_error(got, want, static_cast<size_t>(got.size())), 1e-4) << name;
      }
    });
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, GoldenModel, ::testing::Bool(), [](const auto& param_info) {
  return param_info.param ? "looped" : "plain";
});

}  // namespace
}  // namespace fairway
