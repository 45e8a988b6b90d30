#include "eval/support.h"

namespace fairway {
namespace {

using namespace eval_test;

TEST(Bpb, ByHand) {
  // bos, "▁ab" after a boundary, "▁ab" after text, "c", bos.
  TokenBytes bytes;
  bytes.base = {0, 0, 2, 1};
  bytes.leading_space = {0, 0, 1, 0};
  bytes.boundary = {1, 1, 0, 0};
  const std::vector<float> nll{1.0f, 2.0f, 0.5f, 4.5f};
  const Score s = score(nll, StreamOf({1, 2, 2, 3, 1}), &bytes);
  EXPECT_EQ(s.tokens, 4);
  EXPECT_EQ(s.bytes, 2 + 3 + 1 + 0);
  EXPECT_DOUBLE_EQ(s.nats_per_token, 2.0);
  EXPECT_DOUBLE_EQ(*s.bpb, 8.0 / 6 / 0.6931471805599453);
}

TEST(Bpb, SumsInFloat64) {
  // 1e8 is where float32 stops counting by ones.
  std::vector<uint16_t> tokens(1001, 3);
  std::vector<float> nll(1000, 1.0f);
  nll[0] = 1e8f;
  EXPECT_EQ(score(nll, StreamOf(tokens), nullptr).nats_per_token, (1e8 + 999) / 1000);
}

TEST(Bpb, NoBytesNoRatio) {
  TokenBytes bytes{};
  bytes.base = {0, 0};
  bytes.leading_space = {0, 0};
  bytes.boundary = {1, 1};
  const Score s = score(std::vector<float>{1.0f}, StreamOf({1, 1}), &bytes);
  EXPECT_EQ(s.bytes, 0);
  EXPECT_FALSE(s.bpb);
}

}  // namespace
}  // namespace fairway
