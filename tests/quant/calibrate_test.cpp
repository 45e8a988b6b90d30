#include "fairway/quant/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "fairway/data/stream.h"
#include "fairway/model/weights.h"
#include "fairway/quant/quantize.h"
#include "support/golden.h"

namespace fairway {
namespace {

// The golden Hessians: 3 batches of 4 windows of 32 tokens, summed and divided by 3.
TEST(Calibrate, GoldenHessians) {
  const testing::Golden golden;
  const SafetensorsFile& file = golden.file();
  const ModelConfig& config = golden.config;
  const std::vector<float> flat = golden.parameters("param.");
  const std::vector<int32_t> tokens = file.read<int32_t>("gptq.calib_tokens");
  ASSERT_EQ(tokens.size(), 3u * 4 * 32);
  CpuDevice device;
  Hessians hessians(config);
  for (size_t batch = 0; batch < 3; ++batch)
    accumulate_hessians(device, config, flat.data(), {tokens.data() + batch * 128, {128}}, 32,
                        hessians);
  hessians.scale(1.0f / 3);
  int64_t checked = 0;
  for (const auto& [key, entry] : file.entries()) {
    if (!key.starts_with("gptq.hessian.")) continue;
    SCOPED_TRACE(key);
    const std::vector<float> expected = file.read<float>(key);
    const Tensor<const float> h = hessians.of(key.substr(13));
    ASSERT_TRUE(h);
    ASSERT_EQ(h.size(), static_cast<int64_t>(expected.size()));
    double difference = 0, norm = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double d = double{h[static_cast<int64_t>(i)]} - double{expected[i]};
      difference += d * d;
      norm += double{expected[i]} * double{expected[i]};
    }
    // The forward pass agrees to 1e-5 relative, xᵀx doubles that.
    EXPECT_LT(std::sqrt(difference), 2e-5 * std::sqrt(norm));
    ++checked;
  }
  EXPECT_EQ(checked, 31);
}

// From weights and tokens to codes and scales, all on our own Hessians.
TEST(Calibrate, GoldenCodesFromOurHessians) {
  const testing::Golden golden;
  const SafetensorsFile& file = golden.file();
  const ModelConfig& config = golden.config;
  const std::vector<float> flat = golden.parameters("param.");
  const std::vector<int32_t> tokens = file.read<int32_t>("gptq.calib_tokens");
  CpuDevice device;
  Hessians hessians(config);
  for (size_t batch = 0; batch < 3; ++batch)
    accumulate_hessians(device, config, flat.data(), {tokens.data() + batch * 128, {128}}, 32,
                        hessians);
  QuantConfig quant;
  quant.block = 16, quant.keep_float_elements = 1000;
  const QuantizedModel model = quantize_model(device, config, flat.data(), hessians, quant);
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

// Windows attend only within themselves, and how many go together changes nothing but roundings.
TEST(Calibrate, WindowsAreIndependent) {
  const testing::Golden golden;
  const SafetensorsFile& file = golden.file();
  const ModelConfig& config = golden.config;
  const std::vector<float> flat = golden.parameters("param.");
  const std::vector<int32_t> tokens = file.read<int32_t>("gptq.calib_tokens");
  CpuDevice device;
  Hessians together(config), apart(config);
  accumulate_hessians(device, config, flat.data(), {tokens.data(), {96}}, 32, together);
  for (size_t i = 0; i < 3; ++i)
    accumulate_hessians(device, config, flat.data(), {tokens.data() + 32 * i, {32}}, 32, apart);
  for (const char* name :
       {"blocks.0.attn.c_q.weight", "blocks.4.mlp.proj.weight", "tok_emb.weight"}) {
    const Tensor<const float> a = together.of(name), b = apart.of(name);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < a.size(); ++i) {
      difference += std::pow(double{a[i]} - double{b[i]}, 2);
      norm += double{a[i]} * double{a[i]};
    }
    EXPECT_LE(std::sqrt(difference),
              96 * double{std::numeric_limits<float>::epsilon()} * std::sqrt(norm));
  }
}

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
