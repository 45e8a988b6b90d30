// Against the published implementation's figures.

#include <cmath>

#include "eval/support.h"

namespace fairway {
namespace {

using namespace eval_test;

TokenBytes golden_bytes() {
  TokenBytes bytes;
  bytes.base = golden().read<int32_t>("bytes.base");
  bytes.leading_space = golden().read<uint8_t>("bytes.leading_space");
  bytes.boundary = golden().read<uint8_t>("bytes.boundary");
  return bytes;
}

Evaluation run(const std::vector<uint16_t>& tokens, const EvalConfig& eval, const TttConfig& ttt) {
  CpuDevice device(1);
  const TokenBytes bytes = golden_bytes();
  return evaluate(device, golden_model().config, golden_model().weights(), StreamOf(tokens, 3),
                  kBos, &bytes, eval, ttt, *make_single_process(), {});
}

// The README's tolerances: forward 1e-5 relative.
void expect_score(const Score& s, const std::vector<double>& expected, double relative) {
  EXPECT_NEAR(s.nats_per_token, expected[0], relative * expected[0]);
  ASSERT_TRUE(s.bpb);
  EXPECT_NEAR(*s.bpb, expected[1], relative * expected[1]);
}

TEST(GoldenEval, Chunked) {
  // The reference scores whole spans of 32 only.
  auto tokens = golden_tokens();
  tokens.resize((tokens.size() - 1) / 32 * 32 + 1);
  expect_score(run(tokens, golden_eval(EvalMode::chunked), {}).score,
               golden().read<double>("eval.chunked"), 1e-5);
}

TEST(GoldenEval, Sliding) {
  expect_score(run(golden_tokens(), golden_eval(EvalMode::sliding), {}).score,
               golden().read<double>("eval.sliding"), 1e-5);
}

TEST(GoldenEval, Ttt) {
  TttConfig ttt = golden_ttt();
  ttt.lora_init = FAIRWAY_TEST_DATA "/golden/a.safetensors";
  const Evaluation got = run(golden_tokens(), golden_eval(EvalMode::ttt), ttt);
  expect_score(got.score, golden().read<double>("ttt.loss_bpb"), 1e-5);
  const auto expected = golden().read<float>("ttt.nll");
  ASSERT_EQ(got.nll.size(), expected.size());
  float worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(got.nll[i], expected[i], 2e-4) << "target " << i;
    worst = std::max(worst, std::abs(got.nll[i] - expected[i]));
  }
  RecordProperty("worst", std::to_string(worst));
  std::printf("largest difference %.2e\n", static_cast<double>(worst));
}

TEST(GoldenEval, WithoutBytesThereIsNoBpb) {
  CpuDevice device(1);
  const auto score =
      evaluate(device, golden_model().config, golden_model().weights(), StreamOf(golden_tokens()),
               kBos, nullptr, golden_eval(EvalMode::chunked), {}, *make_single_process(), {})
          .score;
  EXPECT_FALSE(score.bpb);
  EXPECT_FALSE(score.bytes);
  EXPECT_EQ(score.tokens, static_cast<int64_t>(golden_tokens().size()) - 1);
}

}  // namespace
}  // namespace fairway
