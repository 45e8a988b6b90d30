// The reference's own model on real text; skipped where the corpus is absent.

#include <cstdlib>

#include "eval/support.h"

namespace fairway {
namespace {

std::filesystem::path corpus() {
  if (const char* named = std::getenv("FAIRWAY_CORPUS")) return named;
  return std::filesystem::path(FAIRWAY_TEST_DATA) / "../../shared/corpus";
}

TEST(Reference, ChunkedNatsOfTheTinyRun) {
  const auto tiny = corpus() / "tiny";
  const auto model_path = tiny / "reference_seed1.safetensors";
  if (!std::filesystem::exists(model_path))
    GTEST_SKIP() << "no corpus at " << corpus() << "; set FAIRWAY_CORPUS to its folder";
  const LoadedModel model = load_model(model_path);
  ASSERT_EQ(model.config.max_doc_len, 512);
  const std::vector<std::filesystem::path> shards{tiny / "tiny_val_000000.bin"};
  const TokenStream stream(shards, model.config.vocab_size);
  EvalConfig eval;
  eval.batch_tokens = 512;
  CpuDevice device;
  const auto nll =
      evaluate(device, model.config, weights_view<const float>(model.config, model.flat.data()),
               stream, eval_test::kBos, nullptr, eval, {}, *make_single_process(), {})
          .nll;
  EXPECT_EQ(nll.size(), 152237u);
  // The reference drops the incomplete last span.
  double nats = 0;
  for (size_t t = 0; t < 152064; ++t) nats += nll.at(t);
  EXPECT_NEAR(nats / 152064, 3.84273, 1e-4);
}

}  // namespace
}  // namespace fairway
