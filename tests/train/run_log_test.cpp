#include "fairway/train/run_log.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fairway/io/atomic_file.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

TEST(MetricsLog, ContinuesAfterTheLastFinishedStep) {
  const TempDir dir;
  const auto path = dir.path() / "metrics.jsonl";
  {
    MetricsLog log(path, 0);
    for (int64_t step = 0; step < 5; ++step) log.write({step, 1.5, 1, 0.25, 100, 2, step > 2});
  }
  const std::string line =
      R"(,"loss":1.5,"lr":1,"grad_norm":0.25,"tokens_per_second":100,"elapsed":2,"looped":)";
  const std::string first_three = "{\"step\":0" + line + "false}\n{\"step\":1" + line +
                                  "false}\n{\"step\":2" + line + "false}\n";
  EXPECT_TRUE(read_file(path).starts_with(first_three + "{\"step\":3" + line + "true}\n"));

  // A killed run left steps that no checkpoint holds, and a torn line.
  write_file(path, read_file(path) + "{\"step\":1,\"lo");
  { MetricsLog log(path, 3); }
  EXPECT_EQ(read_file(path), first_three);
  { MetricsLog log(path, 0); }
  EXPECT_EQ(read_file(path), "");
}

TEST(MetricsLog, NumbersThatJsonLacksAreNull) {
  const TempDir dir;
  const auto path = dir.path() / "metrics.jsonl";
  MetricsLog log(path, 0);
  log.write({0, std::nan(""), 1, INFINITY, 1, 1, false});
  const std::string text = read_file(path);
  EXPECT_NE(text.find("\"loss\":null"), std::string::npos);
  EXPECT_NE(text.find("\"grad_norm\":null"), std::string::npos);
}

TEST(ProgressLog, PlainLinesAreEveryFewSteps) {
  const TempDir dir;
  const auto path = dir.path() / "log";
  std::FILE* out = std::fopen(path.c_str(), "w");
  ProgressLog log(out, 10);
  for (int64_t step = 0; step < 25; ++step)
    log.step({step, 4.6882, 1, 0, 5210.4, 0, false}, 25, 3725);
  log.line("done");
  std::fclose(out);
  EXPECT_EQ(read_file(path),
            "step 0/25  loss 4.6882  5210 tokens/s  1:02:05 left\n"
            "step 10/25  loss 4.6882  5210 tokens/s  1:02:05 left\n"
            "step 20/25  loss 4.6882  5210 tokens/s  1:02:05 left\n"
            "step 24/25  loss 4.6882  5210 tokens/s  1:02:05 left\n"
            "done\n");
  ProgressLog quiet(nullptr, 1);
  quiet.step({}, 1, 0);
  quiet.line("unheard");
}

}  // namespace
}  // namespace fairway
