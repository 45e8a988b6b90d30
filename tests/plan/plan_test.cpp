#include "fairway/plan/plan.h"

#include <gtest/gtest.h>

#include "fairway/base/check.h"
#include "small_run.h"

namespace fairway {
namespace {

// Every collective takes a second, however large it is.
PlanInputs a_second_each() {
  PlanInputs in = small_run();
  in.links = {.ranks_per_node = kMaxRanks,
              .node_bandwidth = 1e30,
              .node_latency = 0,
              .network_bandwidth = 1e30,
              .network_latency = 0,
              .launch = 1};
  return in;
}

TEST(Plan, OneRankComputesAndExchangesNothing) {
  const Plan plan = make_plan(small_run(), 1);
  EXPECT_EQ(plan.rounds, 8);
  EXPECT_EQ(plan.nodes, 1);
  EXPECT_DOUBLE_EQ(plan.plain.compute, 1.024);
  EXPECT_DOUBLE_EQ(plan.plain.optimizer, 0.1);
  EXPECT_EQ(plan.plain.exchange, 0);
  EXPECT_NEAR(plan.plain.hidden, 0, 1e-12);
  EXPECT_NEAR(plan.plain.total(), 1.124, 1e-12);
  EXPECT_EQ(plan.bytes_sent(), 0);
}

TEST(Plan, TheRecordOnOneH100StepsAsMeasured) {
  PlanInputs in;
  in.train.batch_tokens = static_cast<int64_t>(kMeasuredTokens);
  in.train.micro_steps = 1;
  const auto expect_steps = [&](MatmulPrecision precision, const MeasuredStep& step) {
    in.train.matmul_precision = precision;
    const Plan plan = make_plan(in, 1);
    EXPECT_NEAR(plan.plain.total(), step.plain, 1e-9);
    EXPECT_NEAR(plan.looped.total(), step.looped, 1e-9);
  };
  expect_steps(MatmulPrecision::automatic, kBfloat16Step);
  expect_steps(MatmulPrecision::bfloat16, kBfloat16Step);
  expect_steps(MatmulPrecision::float8, kFloat8Step);
}

TEST(Plan, MicroBatchesThatDoNotDivideEvenlyTakeAnotherRound) {
  const PlanInputs in = small_run();
  for (const auto& [ranks, rounds] : {std::pair{1, 8}, {2, 4}, {3, 3}, {5, 2}, {7, 2}, {8, 1}}) {
    const Plan plan = make_plan(in, ranks);
    EXPECT_EQ(plan.rounds, rounds);
    EXPECT_DOUBLE_EQ(plan.plain.compute, rounds * 0.128);
  }
}

TEST(Plan, MoreRanksThanMicroBatchesAreRefused) {
  try {
    make_plan(small_run(), 9);
    FAIL() << "no error";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("raise train.micro_steps to a multiple of 9"),
              std::string::npos)
        << e.what();
  }
}

TEST(Plan, MuonHidesTheExchangeOfOtherBanks) {
  PlanInputs in = a_second_each();
  const OptimizerWork work = optimizer_work(in.model, in.optim.newton_schulz_steps);
  // With 8 ranks a rank has one matrix of each bank.
  const double part = in.optimizer_seconds / work.total();
  const double muon[] = {part * work.banks[0] / 8, part * work.banks[1] / 8,
                         part * work.banks[2] / 4, part * work.banks[3] / 4};
  const double all = muon[0] + muon[1] + muon[2] + muon[3];

  // Five reductions, four gatherings, two agreements. Muon on the last bank can begin after the
  // fourth second, and is done before the fifth.
  const Plan by_rank = make_plan(in, 8);
  EXPECT_NEAR(by_rank.plain.exchange, 11, 1e-9);
  EXPECT_NEAR(by_rank.plain.optimizer, part * work.rest + all, 1e-9);
  EXPECT_NEAR(by_rank.plain.hidden, all, 1e-9);

  // The mean gradient's norm: Muon on the first bank waits for all reductions, and the gathering
  // of that bank for it; the other three go behind gathering.
  in.optim.clip_mode = ClipMode::global;
  const Plan mean = make_plan(in, 8);
  EXPECT_NEAR(mean.plain.exchange, 12, 1e-9);
  EXPECT_NEAR(mean.plain.hidden, all - muon[0], 1e-9);

  // An optimizer that takes far longer than the exchange hides what is neither before Muon's first
  // bank nor after its last.
  in.optim.clip_mode = ClipMode::per_rank;
  in.optimizer_seconds = 1e6;
  EXPECT_NEAR(make_plan(in, 8).plain.hidden, 11 - 1 - 1 - 2, 1e-6);
}

TEST(Plan, MoreRanks) {
  PlanInputs in;  // the record
  in.train.micro_steps = 1024;
  const Plan one = make_plan(in, 1);
  Plan before = one;
  for (int ranks = 2; ranks <= kMaxRanks; ranks *= 2) {
    const Plan plan = make_plan(in, ranks);
    EXPECT_LT(plan.plain.compute, before.plain.compute);
    EXPECT_LE(plan.plain.optimizer, before.plain.optimizer);
    EXPECT_GT(plan.plain.exchange, before.plain.exchange);
    EXPECT_GT(plan.bytes_sent(), before.bytes_sent());
    EXPECT_LE(plan.memory_bytes(), before.memory_bytes());
    for (const StepTime& t : {plan.plain, plan.looped}) {
      EXPECT_GE(t.hidden, -1e-12);
      EXPECT_LE(t.hidden, t.exchange);
      EXPECT_GE(t.total(), t.compute + t.optimizer - 1e-12);
    }
    EXPECT_GT(plan.looped.total(), plan.plain.total());
    // A run's steps are whole ones, so that their rate may be a little more than its share.
    EXPECT_GT(ranks * plan.plain.total(), one.plain.total());
    EXPECT_GT(ranks * plan.looped.total(), one.looped.total());
    before = plan;
  }
}

TEST(Plan, ContextIsCutWithDocuments) {
  PlanInputs in = small_run();  // max_doc_len 32
  EXPECT_DOUBLE_EQ(in.context_cut(), 16.5);
  in.context = 10;
  EXPECT_DOUBLE_EQ(in.context_cut(), 10);
}

TEST(RunLength, StepsUnderATimeCap) {
  TrainConfig train;
  train.max_seconds = 103;
  train.reserve_seconds = 3;
  train.loop_at = 0.35;
  train.steps = 1000;
  RunLength run = run_length(train, 1, 2);
  EXPECT_EQ(run.plain_steps, 35);
  EXPECT_EQ(run.looped_steps, 33);  // the last begins at 99 s
  EXPECT_DOUBLE_EQ(run.seconds, 101);

  train.steps = 40;
  run = run_length(train, 1, 2);
  EXPECT_EQ(run.plain_steps, 35);
  EXPECT_EQ(run.looped_steps, 5);
  train.steps = 20;
  run = run_length(train, 1, 2);
  EXPECT_EQ(run.plain_steps, 20);
  EXPECT_EQ(run.looped_steps, 0);

  train.steps = 1000;
  train.loop_at = 5;  // never
  run = run_length(train, 1, 2);
  EXPECT_EQ(run.plain_steps, 100);
  EXPECT_EQ(run.looped_steps, 0);
}

TEST(RunLength, StepsWithoutATimeCap) {
  TrainConfig train;
  train.max_seconds = 0;
  train.loop_at = 0.35;
  train.steps = 10;
  const RunLength run = run_length(train, 1, 2);
  EXPECT_EQ(run.plain_steps, 4);  // progress 0, 0.1, 0.2, 0.3
  EXPECT_EQ(run.looped_steps, 6);
  EXPECT_DOUBLE_EQ(run.seconds, 16);
}

}  // namespace
}  // namespace fairway
