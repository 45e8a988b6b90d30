// How many documents test-time training takes at a time. Layouts alone: no GPU is needed.
#include "fairway/eval/ttt_memory.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_device.h"

namespace fairway {
namespace {

// The record's model and adapters.
struct Reckoning {
  explicit Reckoning(E4m3Mlp of_mlp) : mlp(of_mlp) {}

  ModelConfig model;
  E4m3Mlp mlp;
  Network net{model, /*looped=*/true};
  LoraLayout layout{model, net.slots(), {}};
  Tensor<const float> no_scale{nullptr, {model.num_layers, model.model_dim}};
  LoraCopies copies{layout, net.route, no_scale, no_scale};

  TttLimits limits(double room, const TttConfig& config = {}, int64_t pass_tokens = 0) const {
    return ttt_limits<CudaDevice, bf16>(net, config, layout, &copies, mlp, pass_tokens, room);
  }
  double bytes(const TttLimits& limits) const {
    return static_cast<double>(
        ttt_bytes<CudaDevice, bf16>(net, {}, layout, &copies, mlp, limits.docs, limits.tokens));
  }
};

constexpr double kGiB = 0x1p30;

TEST(TttMemory, LimitsTogetherFillTheRoomAndNoMore) {
  for (const E4m3Mlp mlp : {E4m3Mlp::off, E4m3Mlp::bytes}) {
    const Reckoning r(mlp);
    for (const double gib : {2., 7., 20., 36., 71., 127.}) {
      const TttLimits limits = r.limits(gib * kGiB);
      EXPECT_LE(r.bytes(limits), 1.001 * gib * kGiB) << gib << " GiB";
      EXPECT_GT(r.bytes(limits), 0.75 * gib * kGiB) << gib << " GiB";
      // Documents of 1,536 tokens fill both, longer ones the tokens.
      EXPECT_GT(1536 * (limits.docs + 1), limits.tokens) << gib << " GiB";
    }
  }
}

TEST(TttMemory, RoomForNothingIsRoomForOne) {
  const Reckoning r(E4m3Mlp::off);
  for (const double room : {0., -1e12, 1e6}) {
    EXPECT_EQ(r.limits(room).docs, 1);
    EXPECT_EQ(r.limits(room).tokens, 1);
  }
}

TEST(TttMemory, WhatIsAskedForIsALimitToo) {
  const Reckoning r(E4m3Mlp::off);
  TttConfig config;
  config.batch_docs = 3;
  EXPECT_EQ(r.limits(71 * kGiB, config, 5000).docs, 3);
  EXPECT_EQ(r.limits(71 * kGiB, config, 5000).tokens, 5000);
  config.batch_docs = 100000;
  EXPECT_LT(r.limits(2 * kGiB, config, 1 << 24).docs, 100);
  EXPECT_LT(r.limits(2 * kGiB, config, 1 << 24).tokens, 10000);
  // Nothing is short: what is asked for, or suits the device.
  EXPECT_EQ(r.limits(INFINITY, config, 1 << 24).docs, 100000);
  EXPECT_EQ(r.limits(INFINITY, config, 1 << 24).tokens, 1 << 24);
  EXPECT_EQ(r.limits(1e15).tokens, 393216);
}

}  // namespace
}  // namespace fairway
