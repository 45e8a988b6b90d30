#include "fairway/device/cuda_refusal.h"

#include <gtest/gtest.h>

namespace fairway {
namespace {

const CudaMachine kH100{13000, 13000, "", 1, "NVIDIA H100", 90};

void expect_words(const CudaMachine& machine, const char* what) {
  EXPECT_NE(cuda_refusal(machine).find(what), std::string::npos) << cuda_refusal(machine);
}

TEST(CudaRefusal, NoneOfAMachineThatWillDo) {
  CudaMachine m = kH100;
  EXPECT_EQ(cuda_refusal(m), "");
  m.capability = 80;
  EXPECT_EQ(cuda_refusal(m), "");
  m.driver = 13010;
  EXPECT_EQ(cuda_refusal(m), "");
  // A driver of the same major version serves newer programs.
  m.driver = 13000;
  m.runtime = 13010;
  EXPECT_EQ(cuda_refusal(m), "");
}

TEST(CudaRefusal, ToldApart) {
  // CUDA calls both of the first two by one name.
  const std::string insufficient = "CUDA driver version is insufficient for CUDA runtime version";
  expect_words({0, 13000, insufficient, 0, "", 0}, "no NVIDIA driver found on this machine");
  expect_words({12080, 13000, insufficient, 0, "", 0},
               "driver is too old, for CUDA 12.8 where this program needs 13; update it to");
  expect_words({13000, 13000, "system not yet initialized", 0, "", 0},
               "system not yet initialized; see whether nvidia-smi");
  expect_words({13000, 13000, "", 0, "", 0}, "shows no GPU");
  expect_words({13000, 13000, "", 1, "Tesla T4", 75}, "Tesla T4 has compute capability 7.5; use");
}

}  // namespace
}  // namespace fairway
