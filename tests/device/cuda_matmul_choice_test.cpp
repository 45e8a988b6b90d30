#include "fairway/device/cuda_matmul_choice.h"

#include <gtest/gtest.h>

#include <vector>

namespace fairway {
namespace {

constexpr int kTile192x192 = 209, kTile128x128 = 20;
// As cuBLASLt offers them: its first choice, then others.
const std::vector<int> kOffered{kTile192x192, kTile128x128, kTile176x128, kTile176x128};

size_t choice(int64_t n, int64_t k, bool rows_independent = true, bool adds = false) {
  return choose_kernel({n, k, rows_independent, adds}, kOffered);
}

TEST(CudaMatmulChoice, LogitsTakeTheFirstKernelOfTheFastestTile) {
  EXPECT_EQ(choice(8192, 512), 2u);
}

TEST(CudaMatmulChoice, LogitsTakeTheFirstKernelWhereThatTileIsNotOffered) {
  // 0 is the tile of a kernel that does not tell it.
  const std::vector offered{kTile192x192, 0, kTile128x128};
  EXPECT_EQ(choose_kernel({8192, 512, true, false}, offered), 0u);
}

TEST(CudaMatmulChoice, OtherProductsAreLeftToCublas) {
  EXPECT_EQ(choice(2048, 512), 0u);
  EXPECT_EQ(choice(8192, 2048), 0u);
  EXPECT_EQ(choice(8192, 512, true, true), 0u);
  EXPECT_EQ(choice(8192, 512, false, false), 0u);
}

}  // namespace
}  // namespace fairway
