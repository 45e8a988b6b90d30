#include "fairway/report/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "fairway/base/check.h"
#include "fairway/report/budget.h"

namespace fairway {
namespace {

Score example(double nats) {
  Score s;
  s.nats_per_token = nats;
  s.bpb = nats / 2;
  s.tokens = 1234567;
  s.bytes = 4567890;
  s.seconds = 12.34;
  s.device = "CPU, 2 threads";
  s.matmul_precision = "float32";
  return s;
}

TEST(Report, TableIsAlignedAndComplete) {
  Report report;
  report.lines = {{"float", "chunked", example(3.5)}, {"artifact", "ttt", example(3.25)}};
  report.lines[1].score.bpb.reset();
  report.lines[1].score.bytes.reset();
  report.lines[1].score.device = "NVIDIA H200";
  report.lines[1].score.ranks = 2;
  report.lines[1].score.matmul_precision = "float8";
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
            "Training: 1,000 steps, 2,000,000 tokens in 100.0 s; quantization: 1.0 s.\n"
            "Scored by: CPU, 2 threads, float32; 2 × NVIDIA H200, float8.\n");
}

TEST(Report, WhatComputedSeveralScoresIsSaidOnce) {
  Report report;
  report.lines = {{"float", "chunked", example(3.5)}, {"artifact", "ttt", example(3.25)}};
  const std::string text = to_markdown(report);
  EXPECT_NE(text.find("\nScored by: CPU, 2 threads, float32.\n"), std::string::npos) << text;
}

TEST(Report, ScoresSurviveJson) {
  Score s = example(1.0 / 3.0);
  Score back = score_from_json(to_json(s), "x");
  EXPECT_EQ(back.nats_per_token, s.nats_per_token);
  EXPECT_EQ(back.bpb, s.bpb);
  EXPECT_EQ(back.tokens, s.tokens);
  EXPECT_EQ(back.bytes, s.bytes);
  EXPECT_EQ(back.seconds, s.seconds);
  EXPECT_EQ(back.device, s.device);
  EXPECT_EQ(back.ranks, s.ranks);
  EXPECT_EQ(back.matmul_precision, s.matmul_precision);
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
  const auto good = nlohmann::json::parse(to_json(example(3)));
  for (const char* key : {"nats_per_token", "bpb", "tokens", "bytes", "seconds", "device", "ranks",
                          "matmul_precision"}) {
    auto bad = good;
    bad[key] = good[key].is_string() ? nlohmann::json(3) : nlohmann::json("3");
    EXPECT_THROW(score_from_json(bad.dump(), "x"), Error) << bad;
    bad.erase(key);
    EXPECT_THROW(score_from_json(bad.dump(), "x"), Error) << bad;
  }
}

// Two layers' matrices of one kind, one more matrix, and a vector.
Budget example_budget() {
  Budget budget;
  budget.artifact.tensors = {{"blocks.0.mlp.fc.weight", 6, 2000, 800, 20, 0, 6000},
                             {"blocks.1.mlp.fc.weight", 6, 2000, 900, 30, 0, 7000},
                             {"tok_emb.weight", 8, 1000, 500, 10, 0, 3900},
                             {"skip_weights", 0, 10, 0, 0, 15, 0}};
  budget.artifact.container = 300;
  budget.artifact.total = 800 + 20 + 900 + 30 + 500 + 10 + 15 + 300;
  budget.code_entropy_bits = 18000;
  return budget;
}

TEST(Budget, TableGroupsTheLayers) {
  const std::string table = to_markdown(example_budget());
  for (const char* row :
       {"|                             | numbers | codes | scales | float16 |      bytes |\n"
        "|:----------------------------|--------:|------:|-------:|--------:|-----------:|\n"
        "| blocks.*.mlp.fc.weight      |   4,000 | 1,700 |     50 |       - |      1,750 |\n"
        "| tok_emb.weight              |   1,000 |   500 |     10 |       - |        510 |\n"
        "| float16 tensors             |      10 |     - |      - |      15 |         15 |\n"
        "| container                   |         |       |        |         |        300 |\n"
        "| artifact                    |         |       |        |         |      2,575 |\n"
        "| evaluator's sources, xz -9e |         |       |        |         |",
        "| budget                      |         |       |        |         | 16,000,000 |\n",
        "\n5,000 codes:\n"
        "  as stored                                 2,200 bytes, 3.5200 bits a code\n"
        "  entropy under the coder's model           2,113 bytes, 3.3800 bits a code\n"
        "  entropy of each matrix's histogram        2,250 bytes, 3.6000 bits a code\n"})
    EXPECT_NE(table.find(row), std::string::npos) << row << table;
  EXPECT_EQ(table.find("Brotli"), std::string::npos);
}

TEST(Budget, SourcesCountAndTheLimitHolds) {
  Budget budget = example_budget();
  EXPECT_GT(evaluator_source_bytes(), 10'000u);
  EXPECT_EQ(budget.total(), 2575 + evaluator_source_bytes());
  budget.artifact.total = kArtifactBudget - evaluator_source_bytes();
  EXPECT_TRUE(budget.fits());
  ++budget.artifact.total;
  EXPECT_FALSE(budget.fits());
  const auto json = nlohmann::json::parse(to_json(budget));
  EXPECT_EQ(json["total_bytes"], kArtifactBudget + 1);
  EXPECT_EQ(json["fits"], false);
  EXPECT_EQ(json["tensors"].size(), 4u);
}

TEST(Budget, HistogramEntropyIsThatOfEachMatrix) {
  QuantizedModel model;
  model.tensors.resize(3);
  model.tensors[0].matrix.codes = {-1, 1, -1, 1};                  // one bit each
  model.tensors[1].matrix.codes = {5, 5, 5, 5, 5};                 // none
  model.tensors[2].matrix.codes = {-127, 0, 1, 127, 2, 3, 4, -4};  // three
  EXPECT_DOUBLE_EQ(histogram_entropy_bits(model), 4 + 0 + 24);
}

}  // namespace
}  // namespace fairway
