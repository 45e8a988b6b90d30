// What must hold bit for bit, in every mode.

#include <algorithm>
#include <cmath>
#include <map>

#include "eval/support.h"
#include "fairway/base/fields.h"
#include "fairway/eval/score_windows.h"

namespace fairway {
namespace {

using namespace eval_test;

// And in float8, which the CPU emulates.
class EveryMode : public ::testing::TestWithParam<std::tuple<EvalMode, MatmulPrecision>> {
 protected:
  static EvalConfig eval_config() {
    EvalConfig eval = golden_eval(std::get<EvalMode>(GetParam()));
    eval.matmul_precision = std::get<MatmulPrecision>(GetParam());
    return eval;
  }
};
std::string name_of(const ::testing::TestParamInfo<std::tuple<EvalMode, MatmulPrecision>>& info) {
  const auto [mode, precision] = info.param;
  return std::string(enum_name(mode)) + "_" + std::string(enum_name(precision));
}
INSTANTIATE_TEST_SUITE_P(
    Eval, EveryMode,
    ::testing::Combine(::testing::Values(EvalMode::chunked, EvalMode::sliding, EvalMode::ttt),
                       ::testing::Values(MatmulPrecision::automatic, MatmulPrecision::float8)),
    name_of);

TEST_P(EveryMode, ATokenChangesNothingBeforeIt) {
  auto tokens = golden_tokens();
  tokens.resize(260);
  const auto before = nll_of(tokens, eval_config(), golden_ttt());
  // Documents start at 0, 5, 45, 62, 64, 97, 167, …: the first and last token of a chunk, of a
  // document, of a span; a target of the chunk that the next update learns from.
  for (const size_t t :
       {1u, 4u, 6u, 12u, 13u, 14u, 21u, 52u, 65u, 96u, 98u, 130u, 166u, 233u, 258u}) {
    ASSERT_NE(tokens[t], kBos);
    auto changed = tokens;
    changed[t] = changed[t] == 7 ? 8 : 7;
    const auto after = nll_of(changed, eval_config(), golden_ttt());
    for (size_t target = 0; target + 1 < t; ++target)
      ASSERT_EQ(before[target], after[target]) << "token " << t << " reaches target " << target;
    EXPECT_NE(before[t - 1], after[t - 1]) << "the loss of token " << t << " does not see it";
    EXPECT_TRUE(tokens[t + 1] == kBos || before[t] != after[t])
        << "token " << t << " is not in its successor's context";
  }
}

TEST_P(EveryMode, ThreadsAndGroupingDoNotChangeABit) {
  auto tokens = golden_tokens();
  tokens.resize(260);
  EvalConfig eval = eval_config();
  eval.pass_tokens = 50;
  const auto expected = nll_of(tokens, eval, golden_ttt(), 1);
  for (const int64_t pass_tokens : {0, 1, 100, 1 << 20})  // 0: the device's own choice
    for (const int threads : {1, 3}) {
      eval.pass_tokens = pass_tokens;
      EXPECT_EQ(nll_of(tokens, eval, golden_ttt(), threads), expected)
          << pass_tokens << " tokens a pass, " << threads << " threads";
    }
}

TEST_P(EveryMode, MaxDocsScoresAPrefix) {
  const auto tokens = golden_tokens();
  EvalConfig eval = eval_config();
  eval.max_docs = 6;
  const auto some = nll_of(tokens, eval, golden_ttt());
  ASSERT_EQ(some.size(), 167u);  // the bos of the seventh document is the last target
  // Only the last window of a stream may depend on where the stream ends.
  const auto all = nll_of(tokens, eval_config(), golden_ttt());
  for (size_t i = 0; i < some.size(); ++i) ASSERT_EQ(some[i], all[i]);
}

// ttt: nll per document, by the document's tokens. Every document starts with the same adapters.
std::map<std::vector<uint16_t>, std::vector<float>> by_document(
    const std::vector<std::vector<uint16_t>>& documents, const TttConfig& ttt,
    MatmulPrecision precision) {
  std::vector<uint16_t> tokens;
  for (const auto& d : documents) tokens.insert(tokens.end(), d.begin(), d.end());
  tokens.push_back(kBos);  // every document has a next one's bos as its last target
  EvalConfig eval = golden_eval(EvalMode::ttt);
  eval.matmul_precision = precision;
  const auto nll = nll_of(tokens, eval, ttt);
  std::map<std::vector<uint16_t>, std::vector<float>> out;
  auto at = nll.begin();
  for (const auto& d : documents) {
    out[d] = {at, at + static_cast<std::ptrdiff_t>(d.size())};
    at += static_cast<std::ptrdiff_t>(d.size());
  }
  EXPECT_EQ(at, nll.end());
  return out;
}

std::vector<std::vector<uint16_t>> golden_documents() {
  std::vector<std::vector<uint16_t>> documents;
  for (const uint16_t t : golden_tokens()) {
    if (t == kBos) documents.emplace_back();
    documents.back().push_back(t);
  }
  return documents;
}

TEST(Ttt, ADocumentScoresTheSameAloneAndInAnyCompany) {
  TttConfig ttt = golden_ttt();
  ttt.lora_init = FAIRWAY_TEST_DATA "/golden/a.safetensors";
  for (const auto precision : {MatmulPrecision::automatic, MatmulPrecision::float8}) {
    SCOPED_TRACE(enum_name(precision));
    auto documents = golden_documents();
    ttt.batch_docs = golden_ttt().batch_docs;
    const auto together = by_document(documents, ttt, precision);
    for (const auto& d : documents)
      EXPECT_EQ(by_document({d}, ttt, precision).at(d), together.at(d)) << d.size() << " tokens";
    std::reverse(documents.begin(), documents.end());
    EXPECT_EQ(by_document(documents, ttt, precision), together);
    std::rotate(documents.begin(), documents.begin() + 7, documents.end());
    for (const int64_t batch_docs : {64, 3, 1}) {
      ttt.batch_docs = batch_docs;
      EXPECT_EQ(by_document(documents, ttt, precision), together) << batch_docs;
    }
  }
  // What a document has learnt stays as it is while others of its batch go on.
  ttt.beta1 = 0.9;
  ttt.grad_steps = 2;
  const auto documents = golden_documents();
  ttt.batch_docs = 64;
  const auto together = by_document(documents, ttt, MatmulPrecision::automatic);
  ttt.batch_docs = 1;
  EXPECT_EQ(by_document(documents, ttt, MatmulPrecision::automatic), together);
}

// An operand's rounding to e4m3 is at most 2^-4 of it. Of an MLP's output there are four, those of
// n and Wup squared; as independent errors 2^-4·√(4 + 4 + 1 + 1) of what the MLP adds, so float8
// may move scores by as much of what they move by if nothing is added.
TEST(Float8, MovesScoresByNoMoreThanItsRoundings) {
  const auto tokens = golden_tokens();
  GoldenModel without;
  const auto scales = weights_view(without.config, without.flat.data()).mlp_scale;
  std::fill_n(scales.data, scales.size(), 0.0f);
  CpuDevice device(2);
  for (const EvalMode mode : {EvalMode::chunked, EvalMode::sliding}) {
    EvalConfig eval = golden_eval(mode);
    const auto plain = nll_of(tokens, eval, {});
    const auto bare = evaluate(device, without.config, without.weights(), StreamOf(tokens), kBos,
                               nullptr, eval, {}, *make_single_process(), {})
                          .nll;
    eval.matmul_precision = MatmulPrecision::float8;
    const auto rounded = nll_of(tokens, eval, {});
    double moved = 0, by_mlps = 0;
    for (size_t i = 0; i < plain.size(); ++i) {
      moved += std::pow(double{rounded[i]} - plain[i], 2);
      by_mlps += std::pow(double{bare[i]} - plain[i], 2);
    }
    EXPECT_GT(moved, 0);
    EXPECT_LE(std::sqrt(moved), 0x1p-4 * std::sqrt(10) * std::sqrt(by_mlps)) << enum_name(mode);
  }
}

TEST(Ttt, WithoutALearningRateItIsPlainWindowedScoring) {
  TttConfig ttt = golden_ttt();
  ttt.lr = 0;
  const auto tokens = golden_tokens();
  const auto learned = nll_of(tokens, golden_eval(EvalMode::ttt), ttt);

  const StreamOf stream(tokens);
  const auto bos = static_cast<const TokenStream&>(stream).find(kBos);
  std::vector<Window> windows;
  for (const Document& d : plan_documents(static_cast<int64_t>(tokens.size()), bos, 0))
    for (int64_t c = 0; c < num_chunks(d, ttt.chunk_size); ++c)
      windows.push_back(chunk_window(d, c, ttt.chunk_size, ttt.window));
  std::vector<float> plain(learned.size());
  CpuDevice device(1);
  const Network net(golden_model().config, true);
  score_windows(device, net, golden_model().weights(), stream, windows, 512, E4m3Mlp::off, plain,
                [](int64_t, double) {});
  EXPECT_EQ(learned, plain);
}

TEST(Ttt, LearnsWhatRepeats) {
  // A document that says the same thing over and over: what was learned must show.
  std::vector<uint16_t> tokens{kBos};
  for (int i = 0; i < 160; ++i) tokens.push_back(static_cast<uint16_t>(20 + i % 4));
  TttConfig ttt = golden_ttt();
  const auto mean = [](const std::vector<float>& x) {
    double sum = 0;
    for (size_t i = x.size() / 2; i < x.size(); ++i) sum += x[i];
    return sum / static_cast<double>(x.size() - x.size() / 2);
  };
  const double learned = mean(nll_of(tokens, golden_eval(EvalMode::ttt), ttt));
  ttt.grad_steps = 3;
  const double thrice = mean(nll_of(tokens, golden_eval(EvalMode::ttt), ttt));
  ttt.lr = 0;
  const double plain = mean(nll_of(tokens, golden_eval(EvalMode::ttt), ttt));
  EXPECT_LT(learned, plain);
  EXPECT_LT(thrice, learned);
}

TEST(Ttt, TheSeedAndEverySwitchCount) {
  auto tokens = golden_tokens();
  tokens.resize(168);
  const auto base = nll_of(tokens, golden_eval(EvalMode::ttt), golden_ttt());
  const auto differs = [&](auto change) {
    TttConfig ttt = golden_ttt();
    change(ttt);
    return nll_of(tokens, golden_eval(EvalMode::ttt), ttt) != base;
  };
  EXPECT_FALSE(differs([](TttConfig&) {}));
  EXPECT_TRUE(differs([](TttConfig& c) { c.seed = 2; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.k = false; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.o = false; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.mlp = false; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.rank = 5; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.weight_decay = 0; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.beta1 = 0.9; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.beta2 = 0.9; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.eps = 1e-3; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.chunk_size = 7; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.window = 24; }));
  EXPECT_TRUE(differs([](TttConfig& c) { c.grad_steps = 2; }));
  EXPECT_FALSE(differs([](TttConfig& c) { c.batch_docs = 1; }));
  EvalConfig no_loop = golden_eval(EvalMode::ttt);
  no_loop.loop = false;
  EXPECT_NE(nll_of(tokens, no_loop, golden_ttt()), base);
}

TEST(Evaluate, RefusesWhatItCannotScore) {
  const EvalConfig eval = golden_eval(EvalMode::chunked);
  EXPECT_THROW(nll_of({5, 6, 7}, eval, {}), Error);  // no bos
  EXPECT_THROW(nll_of({kBos}, eval, {}), Error);     // no target
  EvalConfig bad = eval;
  bad.stride = 0;
  EXPECT_THROW(nll_of({kBos, 5}, bad, {}), UsageError);
  TttConfig ttt = golden_ttt();
  ttt.chunk_size = ttt.window + 1;
  EXPECT_THROW(nll_of({kBos, 5}, golden_eval(EvalMode::ttt), ttt), UsageError);
}

TEST(Evaluate, NamesTheTokenOfANonFiniteLoss) {
  GoldenModel broken;
  // Only the last of the inputs is this token; its row is poisoned.
  const auto w = weights_view(broken.config, broken.flat.data());
  std::fill_n(w.tok_emb.slice(50).data, broken.config.model_dim, std::nanf(""));
  CpuDevice device(1);
  try {
    evaluate(device, broken.config, broken.weights(), StreamOf({kBos, 9, 8, 7}), kBos, nullptr,
             golden_eval(EvalMode::chunked), {}, *make_single_process(), {});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("token 1 of the stream"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace fairway
