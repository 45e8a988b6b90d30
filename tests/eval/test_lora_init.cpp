#include <cmath>

#include "eval/support.h"
#include "fairway/eval/lora_init.h"
#include "fairway/model/route.h"

namespace fairway {
namespace {

using namespace eval_test;

LoraLayout layout_of(int rank) {
  const ModelConfig& model = golden_model().config;
  return LoraLayout(model, static_cast<int>(make_route(model, true).size()), {.rank = rank});
}
std::vector<float> draw(const LoraLayout& layout, uint64_t seed, uint64_t document, int threads) {
  CpuDevice device(threads);
  std::vector<float> doc(static_cast<size_t>(layout.size()), 9.0f);
  init_lora(device, layout, seed, document, doc.data());
  return doc;
}

TEST(LoraInit, UniformInItsBoundsWithBZero) {
  const LoraLayout layout = layout_of(300);
  const auto doc = draw(layout, 1, 2, 2);
  layout.for_each([&](const std::string& name, int64_t a, int64_t in, int64_t b, int64_t out) {
    const int64_t n = layout.rank() * in;
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    double sum = 0, squares = 0, largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double x = doc[static_cast<size_t>(a + i)] / bound;
      sum += x;
      squares += x * x;
      largest = std::max(largest, std::abs(x));
    }
    // Uniform in ±1: mean 0 ± 1/sqrt(3n), mean square 1/3 ± sqrt(4/45/n); five deviations.
    const double root = std::sqrt(static_cast<double>(n));
    EXPECT_NEAR(sum / static_cast<double>(n), 0, 5 / std::sqrt(3.0) / root) << name;
    EXPECT_NEAR(squares / static_cast<double>(n), 1.0 / 3, 5 * std::sqrt(4.0 / 45) / root) << name;
    EXPECT_LE(largest, 1 + 1e-6) << name;
    EXPECT_GT(largest, 0.99) << name;
    for (int64_t i = 0; i < layout.rank() * out; ++i)
      ASSERT_EQ(doc[static_cast<size_t>(b + i)], 0.0f) << name;
  });
}

TEST(LoraInit, DependsOnSeedAndDocumentOnly) {
  const LoraLayout layout = layout_of(4);
  const auto doc = draw(layout, 1, 2, 1);
  EXPECT_EQ(draw(layout, 1, 2, 3), doc);
  EXPECT_NE(draw(layout, 1, 3, 1), doc);
  EXPECT_NE(draw(layout, 2, 2, 1), doc);
  // No two adapters start alike.
  const auto q0 = layout.slot(doc.data(), 0, Adapter::q),
             q1 = layout.slot(doc.data(), 1, Adapter::q);
  EXPECT_FALSE(std::equal(q0.a, q0.a + 4 * q0.in, q1.a));
}

TEST(LoraInit, FromAFile) {
  const LoraLayout layout = layout_of(4);
  const auto doc = read_lora_init(FAIRWAY_TEST_DATA "/golden/a.safetensors", layout);
  const auto expected = golden().read<float>("ttt.init.o_loras.3.A");
  const auto o3 = layout.slot(doc.data(), 3, Adapter::o);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), o3.a));
  EXPECT_THROW(read_lora_init(FAIRWAY_TEST_DATA "/golden/a.safetensors", layout_of(5)), Error);
}

}  // namespace
}  // namespace fairway
