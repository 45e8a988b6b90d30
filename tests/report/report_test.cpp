#include "fairway/report/report.h"

#include <gtest/gtest.h>

#include "fairway/base/check.h"

namespace fairway {
namespace {

Score example(double nats) {
  Score s;
  s.nats_per_token = nats;
  s.bpb = nats / 2;
  s.tokens = 1234567;
  s.bytes = 4567890;
  s.seconds = 12.34;
  return s;
}

TEST(Report, TableIsAlignedAndComplete) {
  Report report;
  report.lines = {{"float", "chunked", example(3.5)}, {"artifact", "ttt", example(3.25)}};
  report.lines[1].score.bpb.reset();
  report.lines[1].score.bytes.reset();
  report.train_steps = 1000;
  report.train_tokens = 2000000;
  report.train_seconds = 99.96;
  report.quantize_seconds = 1;
  report.artifact_bytes = 1500000;
  report.source_bytes = 100000;
  EXPECT_EQ(to_markdown(report),
            "|                              | nats/token | bits/byte |    tokens | bytes of text | "
            "seconds |\n"
            "|:-----------------------------|-----------:|----------:|----------:|--------------:|-"
            "-------:|\n"
            "| float model, chunked         |     3.5000 |    1.7500 | 1,234,567 |     4,567,890 | "
            "   12.3 |\n"
            "| artifact, test-time training |     3.2500 |         - | 1,234,567 |             - | "
            "   12.3 |\n"
            "\n"
            "Artifact: 1,500,000 bytes + 100,000 bytes of compressed source = 1,600,000, 10.00% of "
            "16,000,000.\n"
            "Training: 1,000 steps, 2,000,000 tokens in 100.0 s; quantization: 1.0 s.\n");
}

TEST(Report, ScoresSurviveJson) {
  Score s = example(1.0 / 3.0);
  Score back = score_from_json(to_json(s), "x");
  EXPECT_EQ(back.nats_per_token, s.nats_per_token);
  EXPECT_EQ(back.bpb, s.bpb);
  EXPECT_EQ(back.tokens, s.tokens);
  EXPECT_EQ(back.bytes, s.bytes);
  EXPECT_EQ(back.seconds, s.seconds);
  s.bpb.reset();
  s.bytes.reset();
  back = score_from_json(to_json(s), "x");
  EXPECT_FALSE(back.bpb);
  EXPECT_FALSE(back.bytes);
  EXPECT_NE(to_json(s).find("\"bpb\": null"), std::string::npos);
}

TEST(Report, DamagedScoresAreErrors) {
  for (const char* text : {"", "[]", "{}", "{\"nats_per_token\": \"3\"}", "{\"nats_per_token\": 3"})
    EXPECT_THROW(score_from_json(text, "x"), Error) << text;
}

}  // namespace
}  // namespace fairway
