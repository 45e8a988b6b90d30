#include "fairway/device/cuda_matmul_choice.h"

#include <gtest/gtest.h>

#include <vector>

namespace fairway {
namespace {

constexpr int kTile256x128 = 24;
// As cuBLASLt offers them: its first choice, then others.
const std::vector<int> kOffered{kTile256x128, 23,           kTile128x160, kTile192x128,
                                kTile176x128, kTile128x128, kTile128x160};

int tile_for(const MatmulClass& product) {
  return kOffered[choose_kernel(product, kOffered)];
}
MatmulClass plain(int64_t n, int64_t k) {
  return {n, k, /*rows_independent=*/true, /*adds=*/false};
}
MatmulClass adding(int64_t n, int64_t k) {
  return {n, k, true, true};
}
MatmulClass weight_gradient(int64_t n, int64_t k) {
  return {n, k, false, true};
}

TEST(CudaMatmulChoice, TakesTheTileThatWasFastestForTheRecordsProducts) {
  EXPECT_EQ(tile_for(plain(256, 512)), kTile128x128);
  EXPECT_EQ(tile_for(plain(512, 512)), kTile128x128);
  EXPECT_EQ(tile_for(plain(1024, 512)), kTile128x128);
  EXPECT_EQ(tile_for(plain(2048, 512)), kTile128x160);
  EXPECT_EQ(tile_for(plain(8192, 512)), kTile176x128);
  EXPECT_EQ(tile_for(plain(512, 1024)), kTile128x160);
  EXPECT_EQ(tile_for(plain(512, 2048)), kTile128x160);
  EXPECT_EQ(tile_for(adding(512, 512)), kTile128x128);
  EXPECT_EQ(tile_for(weight_gradient(2048, 98304)), kTile192x128);
}

TEST(CudaMatmulChoice, LeavesOtherProductsToCublas) {
  EXPECT_EQ(tile_for(plain(512, 8192)), kTile256x128);
  EXPECT_EQ(tile_for(plain(64, 512)), kTile256x128);
  EXPECT_EQ(tile_for(adding(512, 2048)), kTile256x128);
  EXPECT_EQ(tile_for(weight_gradient(512, 98304)), kTile256x128);
  EXPECT_EQ(tile_for(weight_gradient(2048, 8192)), kTile256x128);
  EXPECT_EQ(tile_for({2048, 98304, false, false}), kTile256x128);
}

TEST(CudaMatmulChoice, TakesTheFirstKernelOfATileTheSecondTileOrTheFirstKernel) {
  EXPECT_EQ(choose_kernel(plain(2048, 512), kOffered), 2u);
  EXPECT_EQ(choose_kernel(plain(2048, 512), std::vector{kTile256x128, 23, kTile176x128}), 2u);
  EXPECT_EQ(choose_kernel(plain(2048, 512), std::vector{kTile256x128, 23, kTile128x128}), 0u);
  // 0 is the tile of a kernel that does not tell it.
  EXPECT_EQ(choose_kernel(adding(512, 512), std::vector{kTile256x128, 0}), 0u);
}

}  // namespace
}  // namespace fairway
