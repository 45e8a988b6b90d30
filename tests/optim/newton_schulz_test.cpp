#include "fairway/ops/newton_schulz.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/cpu_device.h"
#include "fairway/io/safetensors.h"

namespace fairway {
namespace {

std::vector<float> transpose(const std::vector<float>& x, int64_t batch, int64_t rows,
                             int64_t cols) {
  std::vector<float> out(x.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        out[static_cast<size_t>((b * cols + j) * rows + i)] =
            x[static_cast<size_t>((b * rows + i) * cols + j)];
  return out;
}

std::vector<float> orthogonalise(CpuDevice& device, std::vector<float> x, int64_t batch,
                                 int64_t rows, int64_t cols) {
  // Scratch full of NaN: nothing may be read before it is written.
  std::vector<float> scratch(static_cast<size_t>(newton_schulz_scratch(batch, rows, cols)),
                             std::nanf(""));
  newton_schulz(device, batch, rows, cols, x.data(), {}, scratch.data());
  return x;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - double{b[i]}, 2);
    norm += std::pow(double{b[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

class NewtonSchulzGolden : public ::testing::Test {
 protected:
  SafetensorsFile golden{FAIRWAY_TEST_DATA "/golden/a.safetensors"};
  std::vector<float> input = golden.read<float>("ns.input");  // [3, 24, 16]
};

TEST_F(NewtonSchulzGolden, Float32) {
  CpuDevice device(2);
  EXPECT_LT(distance(orthogonalise(device, input, 3, 24, 16), golden.read<float>("ns.f32.output")),
            1e-4);
  EXPECT_LT(distance(orthogonalise(device, transpose(input, 3, 24, 16), 3, 16, 24),
                     golden.read<float>("ns.f32.output_wide")),
            1e-4);
}

// Ours rounds the inputs of products to bfloat16, the reference every intermediate: both must be
// about as far from the float32 result, within a few roundings of 2⁻⁹ each.
TEST_F(NewtonSchulzGolden, Bfloat16) {
  std::unique_ptr<CpuDevice> device;
  try {
    device = std::make_unique<CpuDevice>(2, MatmulPrecision::bfloat16);
  } catch (const Error&) {
    GTEST_SKIP() << "this processor has no fast bfloat16";
  }
  const auto exact = golden.read<float>("ns.f32.output");
  const auto reference = golden.read<float>("ns.bf16.output");
  const double reference_error = distance(reference, exact);
  const auto ours = orthogonalise(*device, input, 3, 24, 16);
  EXPECT_LT(distance(ours, exact), 2 * reference_error);
  EXPECT_LT(distance(ours, reference), 3 * reference_error);
}

TEST(NewtonSchulz, DrivesSingularValuesTowardsOneOnAnyThreadCount) {
  const int64_t batch = 3, rows = 96, cols = 320;
  const Philox rng(1, 2);
  std::vector<float> x(static_cast<size_t>(batch * rows * cols));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(rng.normal(i));
  CpuDevice one(1), two(2);
  const auto y = orthogonalise(one, x, batch, rows, cols);
  EXPECT_EQ(y, orthogonalise(two, x, batch, rows, cols));
  // ‖Y‖_F² is the sum of squared singular values; the iteration leaves them in about [0.7, 1.2].
  double sum = 0;
  for (float v : y) sum += double{v} * double{v};
  EXPECT_GT(sum, 0.5 * static_cast<double>(batch * rows));
  EXPECT_LT(sum, 1.4 * static_cast<double>(batch * rows));
}

TEST(NewtonSchulz, AnEvenNumberOfStepsAlsoEndsInPlace) {
  std::vector<float> x{3, 0, 0, 4}, scratch(static_cast<size_t>(newton_schulz_scratch(1, 2, 2)));
  CpuDevice device(1);
  newton_schulz(device, 1, 2, 2, x.data(), {0}, scratch.data());
  EXPECT_NEAR(x[0], 0.6, 1e-6);
  EXPECT_NEAR(x[3], 0.8, 1e-6);
}

}  // namespace
}  // namespace fairway
