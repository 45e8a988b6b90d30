#include "fairway/quant/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "fairway/data/stream.h"
#include "fairway/device/run_types.h"
#include "fairway/model/device_weights.h"
#include "fairway/quant/quantize.h"
#include "support/golden.h"

namespace fairway {
namespace {

// ‖got − want‖ / ‖want‖.
double relative_error(Tensor<const float> got, Tensor<const float> want) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < want.size(); ++i) {
    difference += std::pow(double{got[i]} - double{want[i]}, 2);
    norm += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

// The golden Hessians: 3 batches of 4 windows of 32 tokens, summed and divided by 3.
template <class Device, class T>
Hessians golden_hessians(Device& device, const testing::Golden& golden) {
  const std::vector<float> flat = golden.parameters("param.");
  const std::vector<int32_t> tokens = golden.ints("gptq.calib_tokens");
  check(tokens.size() == 3 * 4 * 32, "golden calibration tokens");
  const DeviceWeights<Device, T> weights(device, golden.config, flat.data());
  Calibration<Device, T> calibration(device, golden.config, weights.view(), 128, 32);
  for (size_t batch = 0; batch < 3; ++batch)
    calibration.add(std::span(tokens).subspan(batch * 128, 128));
  Hessians hessians = calibration.sums();
  hessians.scale(1.0f / 3);
  return hessians;
}

// `error`: of the inputs of matrices, relative. xᵀx doubles it, and so does the square in the MLP's
// hidden activation.
template <class Device, class T>
void check_golden_hessians(Device& device, double error) {
  const testing::Golden golden;
  const Hessians hessians = golden_hessians<Device, T>(device, golden);
  int64_t checked = 0;
  for (const auto& [key, entry] : golden.file().entries()) {
    if (!key.starts_with("gptq.hessian.")) continue;
    SCOPED_TRACE(key);
    const std::vector<float> expected = golden.floats(key);
    const Tensor<const float> h = hessians.of(key.substr(13));
    ASSERT_TRUE(h);
    ASSERT_EQ(h.size(), std::ssize(expected));
    EXPECT_LT(relative_error(h, {expected.data(), h.shape}),
              (key.ends_with("mlp.proj.weight") ? 4 : 2) * error);
    ++checked;
  }
  EXPECT_EQ(checked, 31);
}

// The forward pass agrees to 1e-5.
constexpr double kFloatError = 1e-5;
// Each visit rounds the stream and what it adds to it about eight times to 2^-9, independently
// (tests/model/golden_model_test.cpp).
const double kBf16Error = std::sqrt(8.0 * 17) * 0x1p-9;

TEST(Calibrate, GoldenHessians) {
  CpuDevice device;
  check_golden_hessians<CpuDevice, float>(device, kFloatError);
}

TEST(Calibrate, GoldenHessiansWithBf16Products) {
  if (!cpu_has_fast_bf16()) GTEST_SKIP() << "no bfloat16 arithmetic here";
  CpuDevice device(2, MatmulPrecision::bfloat16);
  check_golden_hessians<CpuDevice, float>(device, kBf16Error);
}

// From weights and tokens to codes and scales, all on our own Hessians.
TEST(Calibrate, GoldenCodesFromOurHessians) {
  const testing::Golden golden;
  const SafetensorsFile& file = golden.file();
  const ModelConfig& config = golden.config;
  const std::vector<float> flat = golden.parameters("param.");
  CpuDevice device;
  const Hessians hessians = golden_hessians<CpuDevice, float>(device, golden);
  QuantConfig quant;
  quant.block = 16, quant.keep_float_elements = 1000;
  const QuantizedModel model =
      quantize_model(device, config, flat.data(), hessians, quant, *make_single_process());
  int64_t differing = 0, total = 0, matrices = 0;
  for (const StoredTensor& t : model.tensors) {
    if (!file.contains("gptq.q." + t.name)) {
      EXPECT_FALSE(t.quantized()) << t.name;
      continue;
    }
    ASSERT_TRUE(t.quantized()) << t.name;
    ++matrices;
    EXPECT_EQ(t.matrix.scales, file.read<uint16_t>("gptq.scale." + t.name));
    const std::vector<int8_t> codes = file.read<int8_t>("gptq.q." + t.name);
    for (size_t i = 0; i < codes.size(); ++i) differing += codes[i] != t.matrix.codes[i];
    total += static_cast<int64_t>(codes.size());
  }
  EXPECT_EQ(matrices, 31);
  EXPECT_LE(static_cast<double>(differing), 5e-4 * static_cast<double>(total));
}

// Windows attend only within themselves, and how many go together changes nothing but roundings of
// the sums, over 96 rows in float32.
template <class Device, class T>
void check_windows_are_independent(Device& device) {
  const testing::Golden golden;
  const std::vector<float> flat = golden.parameters("param.");
  const std::vector<int32_t> tokens = golden.ints("gptq.calib_tokens");
  const DeviceWeights<Device, T> weights(device, golden.config, flat.data());
  Calibration<Device, T> together(device, golden.config, weights.view(), 96, 32),
      apart(device, golden.config, weights.view(), 96, 32);
  together.add(std::span(tokens).first(96));
  for (size_t i = 0; i < 3; ++i) apart.add(std::span(tokens).subspan(32 * i, 32));
  const Hessians a = together.sums(), b = apart.sums();
  for (const char* name :
       {"blocks.0.attn.c_q.weight", "blocks.4.mlp.proj.weight", "tok_emb.weight"})
    EXPECT_LE(relative_error(b.of(name), a.of(name)),
              96 * double{std::numeric_limits<float>::epsilon()})
        << name;
}

TEST(Calibrate, WindowsAreIndependent) {
  CpuDevice device;
  check_windows_are_independent<CpuDevice, float>(device);
}

#if FAIRWAY_WITH_CUDA
class GpuCalibrate : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_F(GpuCalibrate, GoldenHessiansFloat) {
  CudaDevice device;
  check_golden_hessians<CudaDevice, float>(device, kFloatError);
}
TEST_F(GpuCalibrate, GoldenHessiansBf16) {
  CudaDevice device;
  check_golden_hessians<CudaDevice, bf16>(device, kBf16Error);
}
TEST_F(GpuCalibrate, WindowsAreIndependentFloat) {
  CudaDevice device;
  check_windows_are_independent<CudaDevice, float>(device);
}
TEST_F(GpuCalibrate, WindowsAreIndependentBf16) {
  CudaDevice device;
  check_windows_are_independent<CudaDevice, bf16>(device);
}
#endif

TEST(Calibrate, WindowsAreDrawnWithoutReplacement) {
  QuantConfig quant;
  quant.calibration_window = 10, quant.calibration_batch_tokens = 35, quant.calibration_batches = 4;
  const auto batches = calibration_windows(129, quant);  // 12 windows, 9 tokens left over
  ASSERT_EQ(batches.size(), 4u);
  std::set<int64_t> seen;
  for (const auto& batch : batches) {
    EXPECT_EQ(batch.size(), 3u);
    for (int64_t at : batch) {
      EXPECT_EQ(at % 10, 0);
      EXPECT_LE(at + 10, 129);
      seen.insert(at);
    }
  }
  EXPECT_EQ(seen.size(), 12u);
  EXPECT_EQ(calibration_windows(129, quant), batches);
  quant.seed = 1;
  EXPECT_NE(calibration_windows(129, quant), batches);
  quant.calibration_batches = 9;  // more than there are: all twice, three of them thrice
  std::map<int64_t, int> uses;
  for (const auto& batch : calibration_windows(129, quant))
    for (int64_t at : batch) ++uses[at];
  EXPECT_EQ(uses.size(), 12u);
  for (const auto& [at, n] : uses) EXPECT_TRUE(n == 2 || n == 3) << at;
  EXPECT_THROW(calibration_windows(9, quant), Error);
}

}  // namespace
}  // namespace fairway
