#include "fairway/optim/schedule.h"

#include <gtest/gtest.h>

namespace fairway {
namespace {

TEST(Schedule, ProgressByStepsOrByTheClock) {
  EXPECT_DOUBLE_EQ(progress(150, 600, 1e9, 0), 0.25);
  EXPECT_DOUBLE_EQ(progress(150, 600, 146.75, 587), 0.25);
  EXPECT_DOUBLE_EQ(progress(0, 600, 0, 587), 0);
}

TEST(Schedule, LearningRateIsFlatThenFallsLinearly) {
  EXPECT_EQ(lr_factor(0, 0.72, 0), 1);
  EXPECT_EQ(lr_factor(0.279, 0.72, 0), 1);
  EXPECT_NEAR(lr_factor(0.28, 0.72, 0), 1, 1e-12);  // continuous at the corner
  EXPECT_NEAR(lr_factor(0.64, 0.72, 0), 0.5, 1e-12);
  EXPECT_EQ(lr_factor(1, 0.72, 0), 0);
  EXPECT_EQ(lr_factor(1.3, 0.72, 0), 0);  // past the end: never negative
  EXPECT_EQ(lr_factor(0.99, 0.72, 0.1), 0.1);
  EXPECT_EQ(lr_factor(1, 0, 0), 1);  // no warm-down
  EXPECT_EQ(lr_factor(0, 1, 0), 1);  // warm-down from the start
  EXPECT_NEAR(lr_factor(0.25, 1, 0), 0.75, 1e-12);
}

TEST(Schedule, MuonMomentumRisesLinearly) {
  OptimConfig c;
  EXPECT_DOUBLE_EQ(momentum_at(c, 0), 0.92);
  EXPECT_DOUBLE_EQ(momentum_at(c, 750), 0.945);
  EXPECT_DOUBLE_EQ(momentum_at(c, 1500), 0.97);
  EXPECT_DOUBLE_EQ(momentum_at(c, 1 << 30), 0.97);
  c.muon_momentum_warmup_steps = 0;
  EXPECT_DOUBLE_EQ(momentum_at(c, 0), 0.97);
}

}  // namespace
}  // namespace fairway
