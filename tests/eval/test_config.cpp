#include <gtest/gtest.h>

#include <limits>

#include "fairway/base/check.h"
#include "fairway/eval/config.h"

namespace fairway {
namespace {

// The key that validate() complains about, or "".
template <class Config>
std::string complaint(auto change) {
  Config config;
  change(config);
  try {
    config.validate();
  } catch (const UsageError& e) {
    const std::string text = e.what();
    return text.substr(0, text.find(" ="));
  }
  return "";
}

TEST(EvalConfig, NamesTheImpossibleKey) {
  using E = EvalConfig;
  using T = TttConfig;
  EXPECT_EQ(complaint<E>([](E&) {}), "");
  EXPECT_EQ(complaint<T>([](T&) {}), "");
  EXPECT_EQ(complaint<E>([](E& c) { c.batch_tokens = 0; }), "[eval] batch_tokens");
  EXPECT_EQ(complaint<E>([](E& c) { c.batch_tokens = std::numeric_limits<int64_t>::max(); }),
            "[eval] batch_tokens");
  EXPECT_EQ(complaint<E>([](E& c) { c.stride = c.window + 1; }), "[eval] stride");
  EXPECT_EQ(complaint<E>([](E& c) { c.window = 0; }), "[eval] window");
  EXPECT_EQ(complaint<E>([](E& c) { c.max_docs = -1; }), "[eval] max_docs");
  EXPECT_EQ(complaint<E>([](E& c) { c.pass_tokens = -1; }), "[eval] pass_tokens");
  EXPECT_EQ(complaint<T>([](T& c) { c.rank = 0; }), "[ttt] rank");
  EXPECT_EQ(complaint<T>([](T& c) { c.lr = -1; }), "[ttt] lr");
  EXPECT_EQ(complaint<T>([](T& c) { c.lr = std::numeric_limits<double>::quiet_NaN(); }),
            "[ttt] lr");
  EXPECT_EQ(complaint<T>([](T& c) { c.weight_decay = -1; }), "[ttt] weight_decay");
  EXPECT_EQ(complaint<T>([](T& c) { c.beta1 = 1; }), "[ttt] beta1");
  EXPECT_EQ(complaint<T>([](T& c) { c.beta2 = 1; }), "[ttt] beta2");
  EXPECT_EQ(complaint<T>([](T& c) { c.eps = 0; }), "[ttt] eps");
  EXPECT_EQ(complaint<T>([](T& c) { c.chunk_size = c.window; }), "[ttt] chunk_size");
  EXPECT_EQ(complaint<T>([](T& c) { c.window = 0; }), "[ttt] window");
  EXPECT_EQ(complaint<T>([](T& c) { c.batch_docs = -1; }), "[ttt] batch_docs");
  EXPECT_EQ(complaint<T>([](T& c) { c.grad_steps = 0; }), "[ttt] grad_steps");
}

}  // namespace
}  // namespace fairway
