#include "fairway/plan/speed.h"

#include <gtest/gtest.h>

#include "fairway/plan/flops.h"
#include "small_run.h"

namespace fairway {
namespace {

constexpr MatmulPrecision kBf16 = MatmulPrecision::bfloat16, kFloat8 = MatmulPrecision::float8;

TEST(Flops, OfTheSmallModel) {
  const Network plain(small_model(), false), looped(small_model(), true);
  ASSERT_EQ(plain.slots(), 4);
  ASSERT_EQ(looped.slots(), 8);
  // A visit: q and o 32×32, k and v 16×32, up and down 128×32. The head: 48×32.
  const double visit = 2 * 1024 + 2 * 512 + 2 * 4096, head = 1536;
  const Flops f = training_flops(plain, 10, 70);
  EXPECT_DOUBLE_EQ(f.products, 6 * 10 * (4 * visit + head));
  EXPECT_DOUBLE_EQ(f.attention, 14.0 * 70 * 32 * 4);
  EXPECT_DOUBLE_EQ(training_flops(looped, 10, 70).products, 6 * 10 * (8 * visit + head));
}

TEST(ComputeSpeed, WithoutFiguresTheRecordTakesWhatWasMeasured) {
  const ModelConfig record;
  const ComputeSpeed h100;
  const auto seconds = [&](MatmulPrecision precision, bool looped) {
    return h100.seconds(record, precision, looped, kMeasuredTokens, kMeanContext);
  };
  for (const auto& [precision, step] : {std::pair{kBf16, kBfloat16Step},
                                        {MatmulPrecision::automatic, kBfloat16Step},
                                        {kFloat8, kFloat8Step}}) {
    EXPECT_NEAR(seconds(precision, false), step.plain - kOptimizerSeconds, 1e-9);
    EXPECT_NEAR(seconds(precision, true), step.looped - kOptimizerSeconds, 1e-9);
  }
  for (const bool looped : {false, true})
    EXPECT_LT(seconds(kFloat8, looped), seconds(kBf16, looped));
  EXPECT_THROW(seconds(MatmulPrecision::float32, false), std::logic_error);
  // A model without loops has no other route.
  ModelConfig straight;
  straight.num_loops = 0;
  EXPECT_DOUBLE_EQ(h100.seconds(straight, kBf16, true, kMeasuredTokens, kMeanContext),
                   h100.seconds(straight, kBf16, false, kMeasuredTokens, kMeanContext));
}

TEST(ComputeSpeed, SmallMicroBatchesAreSlowerByTheToken) {
  const ModelConfig record;
  const ComputeSpeed h100;
  const double whole = h100.seconds(record, kBf16, true, kMeasuredTokens, kMeanContext),
               half = h100.seconds(record, kBf16, true, kMeasuredTokens / 2, kMeanContext),
               none = h100.seconds(record, kBf16, true, 0, kMeanContext);
  EXPECT_GT(half, whole / 2);
  EXPECT_NEAR(whole - half, half - none, 1e-12);
  EXPECT_GT(none, 0);
  EXPECT_LT(h100.seconds(record, kBf16, true, kMeasuredTokens, 100), whole);
}

TEST(ComputeSpeed, GivenFiguresCount) {
  const ModelConfig model = small_model();
  const ComputeSpeed one(1000, 0), two(1000, 250);
  EXPECT_DOUBLE_EQ(one.seconds(model, kBf16, false, 500, 7), 0.5);
  EXPECT_DOUBLE_EQ(two.seconds(model, kBf16, false, 500, 7), 0.5);
  EXPECT_DOUBLE_EQ(two.seconds(model, kBf16, true, 500, 7), 2);
  const double ratio = training_flops(Network(model, true), 1, 7).total() /
                       training_flops(Network(model, false), 1, 7).total();
  EXPECT_DOUBLE_EQ(one.seconds(model, kBf16, true, 500, 7), 0.5 * ratio);
}

TEST(OptimizerWork, OfTheSmallModel) {
  const OptimizerWork work = optimizer_work(small_model(), 0);
  ASSERT_EQ(work.banks.size(), 4u);
  // Ten floats an element without Newton-Schulz.
  EXPECT_DOUBLE_EQ(work.banks[0], 40.0 * 8 * 1024);
  EXPECT_DOUBLE_EQ(work.banks[2], 40.0 * 4 * 4096);
  // A product XXᵀ of [128, 32], one of 32×32, one that applies it: 2·32·32·128, 2·32³, 2·32·32·128.
  EXPECT_NEAR(optimizer_work(small_model(), 3).banks[2] - work.banks[2],
              3 * 4 * (2 * 2 * 32 * 32 * 128 + 2 * 32 * 32 * 32) / 258.0, 1e-9);
  EXPECT_NEAR(measured_optimizer_seconds(optimizer_work({}, 5)), kOptimizerSeconds, 1e-12);
}

}  // namespace
}  // namespace fairway
