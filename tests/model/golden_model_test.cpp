// The model against the published implementation's tensors, at the tolerances tests/golden states.
#include <gtest/gtest.h>

#include "fairway/model/device_weights.h"
#include "fairway/model/model.h"
#include "fairway/ops/linear.h"
#include "support/golden.h"
#include "support/model_run.h"

namespace fairway {
namespace {

using testing::Golden;
using testing::ModelRun;
using testing::relative_error;

// What a device computes on the golden batch, and how far it is from the published tensors.
template <class Device, class T>
class Model {
 public:
  Model(Device& device, bool looped)
      : device_(device),
        prefix_(looped ? "loop." : "noloop."),
        run_(device, golden.config, looped, golden.ints("pack.ws1.rank0.batch0.inputs"),
             golden.ints("pack.ws1.rank0.batch0.targets"),
             golden.ints("pack.ws1.rank0.batch0.cu_seqlens")),
        params_(golden.parameters("param.")),
        weights_(device, golden.config, params_.data()) {}

  void check_route() const {
    const auto encoder = nlohmann::json::parse(golden.file().metadata().at("encoder_indices"));
    const auto decoder = nlohmann::json::parse(golden.file().metadata().at("decoder_indices"));
    std::vector<int> expected = encoder, layers;
    expected.insert(expected.end(), decoder.begin(), decoder.end());
    for (const Visit& v : run_.net.route) layers.push_back(v.layer);
    EXPECT_EQ(layers, expected);
    EXPECT_EQ(num_skip_weights(golden.config),
              std::stoi(golden.file().metadata().at("num_skip_weights")));
  }

  void check_forward(double tolerance) {
    run_.loss(weights_.view());
    const auto nll = golden.floats("fwd." + prefix_ + "nll");
    EXPECT_LT(relative_error(run_.nll, nll, nll.size()), tolerance);
    // Each use of each layer, in order of use.
    std::vector<int> uses(static_cast<size_t>(golden.config.num_layers), 0);
    for (int s = 0; s < run_.net.slots(); ++s) {
      const int layer = run_.net.route[static_cast<size_t>(s)].layer;
      const std::string use =
          std::to_string(layer) + ".use" + std::to_string(uses[static_cast<size_t>(layer)]++);
      // The sub-layers' outputs before their scales, from the inputs of their last products.
      const auto& v = run_.acts.visits[static_cast<size_t>(s)];
      const int64_t rows = run_.batch.T(), D = golden.config.model_dim, F = golden.config.mlp_dim();
      const auto memory = device_.allocate(static_cast<size_t>(rows * (D + F)) * sizeof(T));
      const Tensor<T> out{reinterpret_cast<T*>(memory.data()), {rows, D}};
      const Tensor<T> f{out.data + out.size(), {rows, F}};
      const auto compare = [&](const char* what) {
        const auto want = golden.floats("fwd." + prefix_ + what + use);
        EXPECT_LT(relative_error(floats(out), want, want.size()), tolerance)
            << what << ", visit " << s;
      };
      linear<T>(device_, {v.y.data, {rows, D}}, weights_.view().wo(layer), out, false);
      compare("attn");
      leaky_sq<T>(device_, v.hidden, f);
      linear<T>(device_, f, weights_.view().wdown(layer), out, false);
      compare("mlp");
    }
  }

  void check_gradients(double tolerance) {
    const auto memory = device_.allocate(params_.size() * sizeof(float));
    auto* gradients = reinterpret_cast<float*>(memory.data());
    const Weights<float> dw = weights_view(golden.config, gradients);
    run_.loss(weights_.view(), nullptr, &dw);
    const auto expected = golden.parameters("grad." + prefix_);
    for_each(dw, [&](const std::string& name, ParamGroup, Tensor<float> got) {
      const float* want = expected.data() + (got.data - gradients);
      EXPECT_LT(relative_error(floats(got), want, static_cast<size_t>(got.size())), tolerance)
          << name;
    });
  }

 private:
  template <class U>
  std::vector<float> floats(Tensor<U> t) {
    const auto values = testing::host_values(device_, t);
    std::vector<float> out;
    for (const U& x : values) out.push_back(static_cast<float>(x));
    return out;
  }

  Device& device_;
  Golden golden;
  std::string prefix_;
  ModelRun<T, Device> run_;
  std::vector<float> params_;
  DeviceWeights<Device, T> weights_;
};

class GoldenModel : public ::testing::TestWithParam<bool> {
 protected:
  CpuDevice device{2};
  Model<CpuDevice, float> model{device, GetParam()};
};

TEST_P(GoldenModel, RouteMatches) {
  if (GetParam()) model.check_route();
}
TEST_P(GoldenModel, ForwardMatches) {
  model.check_forward(1e-5);
}
TEST_P(GoldenModel, GradientsMatch) {
  model.check_gradients(1e-4);
}

#if FAIRWAY_WITH_CUDA
class GpuGoldenModel : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_P(GpuGoldenModel, Float) {
  CudaDevice device;
  Model<CudaDevice, float> model(device, GetParam());
  model.check_forward(1e-5);
  model.check_gradients(1e-4);
}

// Each visit rounds the stream and what it adds to it about eight times to 2^-9; these errors are
// independent, so after 17 visits the stream errs by √(8·17)·2^-9, and a gradient, which goes back
// through as many, by √2 more.
TEST_P(GpuGoldenModel, Bf16) {
  CudaDevice device;
  Model<CudaDevice, bf16> model(device, GetParam());
  const double tolerance = std::sqrt(8.0 * 17) * 0x1p-9;
  model.check_forward(tolerance);
  model.check_gradients(2 * tolerance);
}

INSTANTIATE_TEST_SUITE_P(Shapes, GpuGoldenModel, ::testing::Bool(), [](const auto& param_info) {
  return param_info.param ? "looped" : "plain";
});
#endif

INSTANTIATE_TEST_SUITE_P(Shapes, GoldenModel, ::testing::Bool(), [](const auto& param_info) {
  return param_info.param ? "looped" : "plain";
});

}  // namespace
}  // namespace fairway
