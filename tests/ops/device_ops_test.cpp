// One case list, every device and element type: each op against itself in double on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "fairway/device/run_types.h"
#include "op_cases.h"
#include "support/op_harness.h"

namespace fairway {
namespace {

using testing::OpCase;
using testing::OpHarness;
using testing::OpOutput;
using testing::RunsOn;

std::vector<std::string> case_names(bool gpu) {
  std::vector<std::string> names;
  testing::for_each_op_case([&](const OpCase& c, auto&&) {
    if (gpu || c.on == RunsOn::all) names.push_back(c.name);
  });
  return names;
}

template <class Device, class T>
std::vector<OpOutput> run_case(Device& device, const std::string& wanted) {
  std::vector<OpOutput> outputs;
  testing::for_each_op_case([&](const OpCase& c, auto&& run) {
    if (c.name != wanted) return;
    OpHarness<Device, T> harness(device);
    run(harness);
    device.synchronize();
    outputs = harness.outputs();
  });
  return outputs;
}

// ‖got − want‖/‖want‖ may be: half a unit in the last place for each rounding to T that lies on the
// path, and the growth of a float32 sum of `terms` terms, about √terms roundings of 2^-24 on a
// result that cancellation may have made √terms smaller than its terms; both doubled. What is then
// rounded to e4m3 falls to the other side of one of its boundaries, which lie at most 2^-3 of a
// value apart, as often as they are closer than its error: an error of mean square error·2^-3.
double tolerance(const OpOutput& o, double unit) {
  const double error =
      o.roundings * unit / 2 + 0x1p-24 * std::sqrt(static_cast<double>(o.terms)) + 0x1p-23;
  return 2 * (error + std::sqrt(o.e4m3 * error * 0x1p-3));
}

template <class T>
constexpr double kUnit = 0x1p-23;
template <>
constexpr double kUnit<bf16> = 0x1p-8;

class DeviceOps : public ::testing::TestWithParam<std::string> {
 protected:
  template <class Device, class T>
  void check(Device& device) {
    CpuDevice cpu(2);
    const auto want = run_case<CpuDevice, double>(cpu, GetParam());
    const auto got = run_case<Device, T>(device, GetParam());
    const auto again = run_case<Device, T>(device, GetParam());
    ASSERT_EQ(got.size(), want.size());
    ASSERT_FALSE(got.empty());
    for (size_t i = 0; i < got.size(); ++i) {
      double error = 0, norm = 0, largest = 0;
      for (size_t j = 0; j < got[i].values.size(); ++j) {
        error += std::pow(got[i].values[j] - want[i].values[j], 2);
        norm += std::pow(want[i].values[j], 2);
        largest = std::max(largest, std::fabs(want[i].values[j]));
      }
      EXPECT_LT(largest, testing::kPoison / 2)
          << got[i].name << ": not written, or added to what it held";
      EXPECT_TRUE(got[i].intact) << got[i].name << ": wrote past its end";
      EXPECT_LE(std::sqrt(error), tolerance(got[i], kUnit<T>) * std::sqrt(norm) + 1e-30)
          << got[i].name << ": relative error " << std::sqrt(error / norm);
      EXPECT_EQ(got[i].values, again[i].values) << got[i].name << ": another run gave other bits";
    }
  }
};

TEST_P(DeviceOps, CpuFloat) {
  CpuDevice device(2);
  check<CpuDevice, float>(device);
}

#if FAIRWAY_WITH_CUDA
// One device for all cases: making one takes longer than they do.
CudaDevice* gpu() {
  static const auto device =
      cuda_available() ? std::make_unique<CudaDevice>() : std::unique_ptr<CudaDevice>();
  return device.get();
}

class GpuOps : public DeviceOps {
 protected:
  void SetUp() override {
    if (!gpu()) GTEST_SKIP() << "no GPU here";
  }
};
TEST_P(GpuOps, Float) {
  check<CudaDevice, float>(*gpu());
}
TEST_P(GpuOps, Bf16) {
  check<CudaDevice, bf16>(*gpu());
}
INSTANTIATE_TEST_SUITE_P(Cases, GpuOps, ::testing::ValuesIn(case_names(/*gpu=*/true)),
                         [](const auto& i) { return i.param; });
#endif

INSTANTIATE_TEST_SUITE_P(Cases, DeviceOps, ::testing::ValuesIn(case_names(/*gpu=*/false)),
                         [](const auto& i) { return i.param; });

}  // namespace
}  // namespace fairway
