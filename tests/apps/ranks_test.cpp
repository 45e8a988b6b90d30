// The program as several ranks, started by mpirun on this machine.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fairway/base/rng.h"
#include "support/cli.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class Ranks : public Cli {
 protected:
  void SetUp() override {
    if (!std::strlen(FAIRWAY_MPIEXEC)) GTEST_SKIP() << "built without MPI";
    if (!fs::exists(FAIRWAY_MPIEXEC)) GTEST_SKIP() << "no " << FAIRWAY_MPIEXEC << " here";
    Cli::SetUp();
  }

  // The program with `words` as so many ranks. Ranks that hang are ended, with a status of their
  // own.
  Result on(int ranks, const Words& words) const { return on({{ranks, words}}); }
  // The same, different words for different ranks.
  Result on(const std::vector<std::pair<int, Words>>& parts) const {
    Words all = launcher();
    for (const auto& [ranks, words] : parts) {
      if (&words != &parts.front().second) all.push_back(":");
      all.insert(all.end(), {"-np", std::to_string(ranks), FAIRWAY_BINARY});
      all.insert(all.end(), words.begin(), words.end());
    }
    return finish(start(all));
  }

  static Words launcher() {
    // The leaks that a sanitizer finds are MPI's own.
    return {"env",
            "ASAN_OPTIONS=detect_leaks=0",
            "timeout",
            "100",
            FAIRWAY_MPIEXEC,
            "--allow-run-as-root",
            "--oversubscribe",
            "--mca",
            "mpi_yield_when_idle",
            "1"};
  }

  // One line of ours on stderr, whatever mpirun adds to it; the launcher's status is ours.
  void expect_all_ended(const Result& r, int status, const std::string& what) const {
    EXPECT_EQ(r.status, status) << r.err;
    size_t lines = 0;
    for (size_t p = r.err.find("fairway: "); p != std::string::npos;
         p = r.err.find("fairway: ", p + 1))
      ++lines;
    EXPECT_EQ(lines, 1u) << r.err;
    EXPECT_NE(r.err.find(what), std::string::npos) << r.err;
  }

  // model.safetensors, trained for a few steps.
  void train() const {
    build_data();
    write_recipe(6);
    expect_done(fairway({"train", "--recipe", at("toy.toml"), "--out", at("run")}));
  }
  Words eval(const std::string& model, const std::string& nll, Words more = {}) const {
    Words words{"eval",        at(model),
                "--data",      at("shards/toy_val_*.bin"),
                "--data",      at("shards/toy_train_*.bin"),
                "--tokenizer", "bytes",
                "--max-docs",  "40",
                "--nll",       at(nll),
                "--json",      at(nll + ".json")};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Words quantize(const std::string& out) const {
    return {"quantize",
            at("run/model.safetensors"),
            "--calibration",
            at("shards/toy_train_*.bin"),
            "--tokenizer",
            "bytes",
            "--out",
            at(out),
            "--calibration-batches",
            std::to_string(kBatches),
            "--calibration-batch-tokens",
            std::to_string(kBatchTokens),
            "--calibration-window",
            "64",
            "--keep-float-elements",
            "256",
            "--no-brotli"};
  }
  static constexpr int kBatches = 4, kBatchTokens = 128;

  std::vector<float> floats(const std::string& name) const {
    const std::string bytes = read_file(at(name));
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
};

TEST_F(Ranks, ScoresAreTheSameBitsForAnyNumber) {
  train();
  const std::vector<Words> modes{
      {"--mode", "chunked", "--batch-tokens", "256"},
      {"--mode", "sliding", "--window", "64", "--stride", "16"},
      // Chunks that leave some documents untrained.
      {"--mode", "ttt", "--window", "128", "--chunk-size", "64", "--rank", "4", "--lr", "0.001"}};
  for (const Words& mode : modes) {
    SCOPED_TRACE(mode[1]);
    expect_done(fairway(eval("run/model.safetensors", "alone", mode)));
    Json alone = Json::parse(read_file(at("alone.json")));
    // What may differ: one rank has other threads than several.
    const auto forget_how = [](Json& json) {
      for (const char* key : {"seconds", "device", "ranks"}) json.erase(key);
    };
    forget_how(alone);
    for (const int ranks : {2, 3, 4, 8}) {
      fs::remove(at("nll"));
      const Result r = on(ranks, eval("run/model.safetensors", "nll", mode));
      expect_done(r);
      EXPECT_EQ(r.out.find("nats/token"), r.out.rfind("nats/token")) << r.out;
      EXPECT_EQ(read_file(at("nll")), read_file(at("alone"))) << ranks << " ranks";
      Json json = Json::parse(read_file(at("nll.json")));
      EXPECT_EQ(json["ranks"], ranks);
      forget_how(json);
      EXPECT_EQ(json, alone) << ranks << " ranks";
    }
  }
}

TEST_F(Ranks, ShardsAreTheSameBytesForAnyNumber) {
  write_text();
  const std::string docs = read_file(at("docs.jsonl")) + "{\"text\": \"\"}\n";
  // Tasks are 4 MiB: half a dozen of them, compressed lines and very many small files among them.
  std::string text;
  while (text.size() < 9'000'000) text += docs;
  write_file(at("long.jsonl"), text);
  expect_done(shell("xz -1 -c " + at("long.jsonl") + " >" + at("packed.jsonl.xz")));
  fs::create_directories(at("many"));
  for (size_t i = 0; i < 300; ++i)
    std::ofstream(at(fmt::format("many/{:03}.txt", i))) << docs.substr(100 * (i % 7), 1 + 40 * i);
  const auto build = [&](const std::string& out) {
    return Words{"data",        "build",
                 "--input",     at("long.jsonl"),
                 "--input",     at("many"),
                 "--input",     at("packed.jsonl.xz"),
                 "--input",     at("docs.jsonl"),
                 "--tokenizer", "bytes",
                 "--out",       at(out),
                 "--name",      "set",
                 "--val-docs",  "200"};
  };
  expect_done(fairway(build("alone")));
  for (const int ranks : {2, 3}) {
    const std::string out = fmt::format("by{}", ranks);
    expect_done(on(ranks, build(out)));
    ASSERT_EQ(files(out), files("alone"));
    for (const std::string& file : files("alone"))
      EXPECT_TRUE(read_file(at(out + "/" + file)) == read_file(at("alone/" + file)))
          << file << " by " << ranks << " ranks";
  }
}

TEST_F(Ranks, QuantizationIsRepeatableAndThatOfOneProcess) {
  train();
  expect_done(fairway(quantize("alone.fairway")));
  for (const char* out : {"two.fairway", "again.fairway"}) expect_done(on(2, quantize(out)));
  expect_done(on(3, quantize("three.fairway")));
  EXPECT_EQ(read_file(at("two.fairway")), read_file(at("again.fairway")));

  const auto nll = [&](const std::string& model) {
    expect_done(fairway(eval(model, "nll", {"--mode", "chunked"})));
    return floats("nll");
  };
  const auto distance = [](const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - double{b[i]}, 2);
    return std::sqrt(sum / static_cast<double>(a.size()));
  };
  const auto alone = nll("alone.fairway");
  // Summed in another order, a Hessian's entries differ by rows · 2^-24 of themselves at most, and
  // so may what is rounded to a code of up to 31: so near to a tie are twice as many of the codes.
  // Each is then off by a step, where quantization itself moved all by a step's root of 1/12.
  const double flipped = 2 * 31 * kBatches * kBatchTokens * 0x1p-24;
  const double tolerance = std::sqrt(12 * flipped) * distance(alone, nll("run/model.safetensors"));
  EXPECT_GT(tolerance, 0);
  for (const char* model : {"two.fairway", "three.fairway"})
    EXPECT_LE(distance(nll(model), alone), tolerance) << model;
}

TEST_F(Ranks, ARunIsDoneAndContinuedByAllOfThem) {
  build_data();
  write_recipe(6);
  const auto run = [&](int ranks) {
    const Result r = on(
        ranks, {"run", "--recipe", at("toy.toml"), "--out", at("run"), "--train.micro_steps", "2"});
    expect_done(r);
    return r.out;
  };
  const std::string all = run(2);
  EXPECT_EQ(all.find("done before"), std::string::npos) << all;
  const Json before = Json::parse(read_file(at("run/report.json")));
  const auto trained = fs::last_write_time(at("run/model.safetensors"));
  // As if stopped during quantization.
  fs::remove(at("run/model.fairway"));
  const std::string rest = run(3);
  EXPECT_EQ(fs::last_write_time(at("run/model.safetensors")), trained);
  for (const char* line : {"[1/6] train: done before\n", "[2/6] eval-float-chunked: done before\n",
                           "[3/6] quantize\n", "[6/6] eval-artifact-ttt\n"})
    EXPECT_NE(rest.find(line), std::string::npos) << rest;
  EXPECT_EQ(files("run/stages").size(), 6u);
  // The report speaks of the artifact that is there now.
  const Json report = Json::parse(read_file(at("run/report.json")));
  EXPECT_EQ(report["artifact_bytes"], fs::file_size(at("run/model.fairway")));
  EXPECT_EQ(report["train_steps"], before["train_steps"]);
  ASSERT_EQ(report["evaluations"].size(), 4u);
  expect_done(fairway({"eval", at("run/model.fairway"), "--data", at("shards/toy_val_*.bin"),
                       "--tokenizer", "bytes", "--mode", "ttt", "--max-docs", "4", "--rank", "4",
                       "--lr", "0.001", "--window", "64", "--json", at("score.json")}));
  const Json score = Json::parse(read_file(at("score.json")));
  EXPECT_EQ(report["evaluations"][3]["nats_per_token"], score["nats_per_token"]);
}

TEST_F(Ranks, WhatOneOfThemFailsAtEndsAll) {
  train();
  const std::string model = "run/model.safetensors", none = "none.safetensors";
  const Words ttt{"--mode", "ttt", "--rank", "4"};
  expect_all_ended(on({{2, eval(model, "nll", ttt)}, {1, eval(none, "nll", ttt)}}), 1,
                   "rank 2 of 3: " + at(none));
  expect_all_ended(on({{1, eval(none, "nll")}, {2, eval(model, "nll")}}), 1,
                   "rank 0 of 3: " + at(none));
  // Two that fail at the same time, but not rank 0.
  expect_all_ended(on({{1, eval(model, "nll")}, {2, eval(none, "nll")}}), 1,
                   "rank 1 of 3: " + at(none));
  EXPECT_FALSE(fs::exists(at("nll")));
  EXPECT_FALSE(fs::exists(at("nll.json")));
  // In the middle of the work: weights that are not numbers.
  std::string broken = read_file(at(model));
  std::fill(broken.end() - 4096, broken.end(), '\xFF');
  write_file(at("broken.safetensors"), broken);
  expect_all_ended(on({{1, eval(model, "nll", ttt)}, {1, eval("broken.safetensors", "nll", ttt)}}),
                   1, "rank 1 of 2: the nll of token");
  EXPECT_FALSE(fs::exists(at("nll")));
  // A text that rank 1 comes upon. Rank 0 says so, and clears away.
  std::string text;
  while (text.size() < 6'000'000) text += read_file(at("docs.jsonl"));
  write_file(at("long.jsonl"), text + "{\"text\": 3}\n");
  const Words build{"data",        "build", "--input", at("long.jsonl"),
                    "--tokenizer", "bytes", "--out",   at("out")};
  expect_all_ended(on(2, build), 1, "long.jsonl:");
  EXPECT_FALSE(fs::exists(at("out")));
  // Ranks that see different text.
  write_file(at("long.jsonl"), text);
  Words longer = build;
  longer.insert(longer.end(), {"--input", at("long.jsonl")});
  expect_all_ended(on({{1, build}, {1, longer}}), 1, "every rank must see the same files");
  EXPECT_FALSE(fs::exists(at("out")));
}

TEST_F(Ranks, AKilledRankEndsTheOthers) {
  build_data();
  write_recipe(1'000'000);
  const Words train{FAIRWAY_BINARY,
                    "train",
                    "--recipe",
                    at("toy.toml"),
                    "--out",
                    at("run"),
                    "--train.micro_steps",
                    "2",
                    "--train.checkpoint_every",
                    "1"};
  Words all = launcher();
  all.insert(all.end(), {"-np", "1"});
  all.insert(all.end(), train.begin(), train.end());
  all.insert(all.end(),
             {":", "-np", "1", "sh", "-c", "echo $$ > \"$0\" && exec \"$@\"", at("killed.pid")});
  all.insert(all.end(), train.begin(), train.end());
  const auto checkpoints = [&] {
    const bool begun = fs::exists(at("run/checkpoints"));
    return begun ? files("run/checkpoints") : Words{};
  };
  const pid_t launched = start(all);
  while (checkpoints().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ASSERT_EQ(::kill(std::stoi(read_file(at("killed.pid"))), SIGKILL), 0);
  const auto killed = std::chrono::steady_clock::now();
  const Result r = finish(launched);
  EXPECT_NE(r.status, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(10));
  // What they had written is there to go on with.
  EXPECT_FALSE(checkpoints().empty());
}

TEST_F(Ranks, ARunWhoseRanksAreKilledEndsWithTheSameBytes) {
  build_data();
  write_recipe(100);
  // Each rank says which process it is before it becomes the program.
  const auto train = [&](const std::string& out) {
    Words all = launcher();
    for (int rank = 0; rank < 2; ++rank) {
      const std::string pid = at(fmt::format("{}.rank{}", out, rank));
      if (rank > 0) all.push_back(":");
      all.insert(all.end(), {"-np", "1", "sh", "-c",
                             "echo $$ > \"$0.new\" && mv \"$0.new\" \"$0\" && exec \"$@\"", pid,
                             FAIRWAY_BINARY, "train", "--recipe", at("toy.toml"), "--out", at(out),
                             "--train.micro_steps", "2", "--train.checkpoint_every", "2"});
      fs::remove(pid);
    }
    return start(all);
  };
  expect_done(finish(train("whole")));
  const Philox rng(9, 0);
  uint64_t draw = 0;
  int kills = 0, continued = 0;  // of them, with a checkpoint to go on from
  for (int runs = 0; kills < 5 || continued == 0; ++runs) {
    ASSERT_LT(runs, 10) << "they are faster than the kills";
    const std::string out = fmt::format("cut{}", runs);
    for (double seconds = 0.5;; seconds *= 1.3) {
      const pid_t launched = train(out);
      const std::string victim = at(fmt::format("{}.rank{}", out, rng.below(draw++, 2)));
      while (!fs::exists(victim)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds * rng.uniform(draw++)));
      if (::kill(std::stoi(read_file(victim)), SIGKILL) == 0) ++kills;
      const Result r = finish(launched);
      if (r.status == 0) break;
      const std::string checkpoints = at(out + "/checkpoints");
      if (fs::exists(checkpoints) && !fs::is_empty(checkpoints)) ++continued;
    }
    EXPECT_EQ(files(out + "/checkpoints"), files("whole/checkpoints"));
    EXPECT_TRUE(read_file(at(out + "/model.safetensors")) ==
                read_file(at("whole/model.safetensors")));
  }
  fmt::print("{} kills, {} of them after a checkpoint\n", kills, continued);
}

// mpirun passes SIGUSR1 on to all ranks, and kills none of them. Asked to end itself, it asks them
// to, and kills them when they had their time.
TEST_F(Ranks, ASignalToMpirunIsACheckpoint) {
  build_data();
  write_recipe(1'000'000);
  for (const auto& [signal, seconds] : {std::pair{SIGUSR1, "1"}, std::pair{SIGTERM, "3"}}) {
    SCOPED_TRACE(strsignal(signal));
    const std::string out = fmt::format("run{}", signal);
    Words all = launcher();
    all.erase(all.begin() + 2, all.begin() + 4);  // `timeout` would pass the signal on to itself
    all.insert(all.end(),
               {"--mca", "odls_base_sigkill_timeout", seconds, "-np", "2", FAIRWAY_BINARY, "train",
                "--recipe", at("toy.toml"), "--out", at(out), "--train.micro_steps", "2"});
    const pid_t launched = start(all);
    const auto begun = [&] {
      return fs::exists(at(out + "/metrics.jsonl")) &&
             fs::file_size(at(out + "/metrics.jsonl")) > 0;
    };
    while (!begun()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_EQ(::kill(launched, signal), 0);
    const Result r = finish(launched);
    expect_all_ended(r, 1, "rank 0 of 2: training was interrupted");
    EXPECT_EQ(r.out.find('\x1b'), std::string::npos) << "lines rewritten as if on a terminal";
    ASSERT_EQ(files(out + "/checkpoints").size(), 1u);
  }
}

TEST_F(Ranks, WhatTheyExchangeIsMeasured) {
  write_recipe(1);
  const Words bench{"bench",    "exchange", "--recipe", at("toy.toml"),
                    "--device", "cpu",      "--json",   at("exchange.json")};
  const Result r = on(3, bench);
  expect_done(r);
  EXPECT_EQ(r.out.rfind("3 ranks", 0), 0u) << r.out;
  EXPECT_NE(r.out.find("fairway plan --gpus-per-node 3 "), std::string::npos) << r.out;
  const Json json = Json::parse(read_file(at("exchange.json")));
  EXPECT_EQ(json["ranks"], 3);
  EXPECT_GT(json["step_seconds"], 0.0);
  // Four banks come and go, and the rest once.
  const auto of_step = std::count_if(json["exchanges"].begin(), json["exchanges"].end(),
                                     [](const Json& e) { return e["what"] != "by size"; });
  EXPECT_EQ(of_step, 9);
  for (const Json& e : json["exchanges"]) EXPECT_GT(e["seconds"], 0.0) << e;
  expect_failed(fairway(bench), 2, "start it with mpirun");
}

TEST_F(Ranks, CommandsOfOneProcessSayThatTheyAre) {
  expect_all_ended(on(2, {"inspect", at("none")}), 2, "runs as one process");
  expect_all_ended(on(2, {"bench", "ops"}), 2, "'fairway bench ops' runs as one process");
  expect_all_ended(on(2, {"bench", "step", "--device", "cpu"}), 2, "runs as one process");
}

}  // namespace
}  // namespace fairway
