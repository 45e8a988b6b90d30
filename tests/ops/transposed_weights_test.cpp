// Transposed copies of layers' matrices: where they are made, what they hold, and that ops compute
// the same from them as from copies of their own. What ops compute: device_ops_test.cpp.
#include "fairway/ops/transposed_weights.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "fairway/device/run_types.h"
#include "op_cases.h"
#include "support/op_harness.h"

namespace fairway {
namespace {

using testing::OpHarness;

constexpr int64_t kLayers = 3, kD = 128, kKd = 64, kF = 320;

template <class Device, class T>
BackwardWeights<T> weights(OpHarness<Device, T>& h, int64_t D = kD) {
  return {h.in({kLayers, D, D}), h.in({kLayers, kKd, D}), h.in({kLayers, kKd, D}),
          h.in({kLayers, D, D}), h.in({kLayers, kF, D}),  h.in({kLayers, D, kF})};
}

template <class T>
void expect_none(const TransposedWeights<T>& copies) {
  EXPECT_FALSE(copies.qkv);
  EXPECT_FALSE(copies.wo);
  EXPECT_FALSE(copies.mlp.wup);
  EXPECT_FALSE(copies.mlp.wdown);
}

TEST(TransposedWeights, ACpuHasNone) {
  CpuDevice device(1);
  OpHarness<CpuDevice, float> h(device);
  expect_none(transposed_weights<float>(device, weights(h)));
}

#if FAIRWAY_WITH_CUDA
class GpuTransposedWeights : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no GPU here";
    device_ = std::make_unique<CudaDevice>();
    hopper_ = device_->capability() == 90;
  }

  std::vector<bf16> host(Tensor<const bf16> t) {
    std::vector<bf16> values(static_cast<size_t>(t.size()));
    device_->download(values.data(), t.data, values.size() * sizeof(bf16));
    return values;
  }

  // `copies` [L, in, Σ out_i] hold the w[i] [L, out_i, in].
  void expect_transposed(const std::string& name, const std::vector<Tensor<const bf16>>& w,
                         Tensor<const bf16> copies) {
    ASSERT_TRUE(copies) << name;
    const int64_t in = w[0].extent(2);
    int64_t all = 0, before = 0;
    for (const auto& one : w) all += one.extent(1);
    ASSERT_EQ(copies.shape, Shape({kLayers, in, all})) << name;
    const auto got = host(copies);
    for (size_t i = 0; i < w.size(); before += w[i++].extent(1)) {
      const auto want = host(w[i]);
      const int64_t out = w[i].extent(1);
      for (int64_t layer = 0; layer < kLayers; ++layer)
        for (int64_t row = 0; row < out; ++row)
          for (int64_t column = 0; column < in; ++column)
            ASSERT_EQ(got[static_cast<size_t>((layer * in + column) * all + before + row)].bits,
                      want[static_cast<size_t>((layer * out + row) * in + column)].bits)
                << name << ": matrix " << i << " of layer " << layer << ", row " << row
                << ", column " << column;
    }
  }

  std::unique_ptr<CudaDevice> device_;
  bool hopper_ = false;
};

TEST_F(GpuTransposedWeights, HoldEachLayersMatricesWhereProductsReadThem) {
  OpHarness<CudaDevice, bf16> h(*device_);
  const auto w = weights(h);
  const auto copies = transposed_weights<bf16>(*device_, w);
  if (!hopper_) return expect_none(copies);
  expect_transposed("qkv", {w.wq, w.wk, w.wv}, copies.qkv);
  expect_transposed("wo", {w.wo}, copies.wo);
  expect_transposed("wup", {w.wup}, copies.mlp.wup);
  expect_transposed("wdown", {w.wdown}, copies.mlp.wdown);
}

TEST_F(GpuTransposedWeights, WithoutTheMlp) {
  OpHarness<CudaDevice, bf16> h(*device_);
  auto w = weights(h);
  w.wup = w.wdown = {};
  const auto copies = transposed_weights<bf16>(*device_, w);
  if (!hopper_) return expect_none(copies);
  expect_transposed("qkv", {w.wq, w.wk, w.wv}, copies.qkv);
  expect_transposed("wo", {w.wo}, copies.wo);
  EXPECT_FALSE(copies.mlp.wup);
  EXPECT_FALSE(copies.mlp.wdown);
}

TEST_F(GpuTransposedWeights, NoneOfFloatsOrOtherWidths) {
  OpHarness<CudaDevice, float> of_float(*device_);
  expect_none(transposed_weights<float>(*device_, weights(of_float)));
  OpHarness<CudaDevice, bf16> h(*device_);
  expect_none(transposed_weights<bf16>(*device_, weights(h, 96)));
}

TEST_F(GpuTransposedWeights, OpsComputeTheSameWithAndWithout) {
  const auto run = [&](bool copies) {
    OpHarness<CudaDevice, bf16> h(*device_);
    testing::transposed_weights_case(h, copies);
    device_->synchronize();
    return h.outputs();
  };
  const auto with = run(true), without = run(false);
  ASSERT_EQ(with.size(), without.size());
  for (size_t i = 0; i < with.size(); ++i)
    EXPECT_EQ(with[i].values, without[i].values) << with[i].name;
}
#endif

}  // namespace
}  // namespace fairway
