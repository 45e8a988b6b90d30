// The program is killed at any moment, started again, and ends with the bytes of a run that nobody
// disturbed.
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "fairway/base/rng.h"
#include "fairway/train/checkpoint.h"
#include "support/cli.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Milliseconds = std::chrono::duration<double, std::milli>;

// What a run left behind, without what its clock says.
std::string without_seconds(const fs::path& report) {
  Json json = Json::parse(read_file(report));
  json.erase("train_seconds");
  json.erase("quantize_seconds");
  for (auto& line : json["evaluations"]) line.erase("seconds");
  return json.dump(1);
}
std::string losses(const fs::path& metrics) {
  std::string out, line;
  for (std::istringstream text(read_file(metrics)); std::getline(text, line);) {
    Json json = Json::parse(line);
    json.erase("tokens_per_second");
    json.erase("elapsed");
    out += json.dump() + "\n";
  }
  return out;
}

class Kills : public Cli {
 protected:
  // Names of everything below a directory of the test.
  std::set<std::string> tree(const std::string& directory) const {
    std::set<std::string> names;
    if (!fs::exists(at(directory))) return names;
    for (const auto& entry : fs::recursive_directory_iterator(at(directory)))
      names.insert(fs::relative(entry.path(), at(directory)).string());
    return names;
  }
  static bool unfinished(const std::string& name) { return name.ends_with(".tmp"); }

  // The stage of a run in which a kill fell, by what it left.
  static std::string stage_of(const std::set<std::string>& tree) {
    if (!tree.contains("metrics.jsonl")) return "before training";
    for (const auto& [result, stage] : {std::pair{"train", "training"},
                                        {"eval-float-chunked", "scoring the float model"},
                                        {"quantize", "quantizing"},
                                        {"eval-artifact-chunked", "scoring, chunked"},
                                        {"eval-artifact-sliding", "scoring, sliding"},
                                        {"eval-artifact-ttt", "scoring, ttt"}})
      if (!tree.contains(std::string("stages/") + result + ".json")) return stage;
    return "reporting";
  }

  // How far a run has come: what a later kill must not undo.
  std::pair<int64_t, size_t> progress(const std::string& run,
                                      const std::set<std::string>& tree) const {
    const auto found = find_checkpoints(at(run) + "/checkpoints");
    const auto finished =
        static_cast<size_t>(std::count_if(tree.begin(), tree.end(), [](const std::string& n) {
          return n.starts_with("stages/") && n.ends_with(".json");
        }));
    return {found.empty() ? -1 : read_checkpoint_info(found.back()).position.step, finished};
  }

  void expect_same_results(const std::string& run, const std::string& reference) const {
    for (const char* file : {"model.safetensors", "model.fairway"})
      EXPECT_TRUE(read_file(at(run) + "/" + file) == read_file(at(reference) + "/" + file)) << file;
    EXPECT_EQ(without_seconds(at(run) + "/report.json"),
              without_seconds(at(reference) + "/report.json"));
    EXPECT_EQ(losses(at(run) + "/metrics.jsonl"), losses(at(reference) + "/metrics.jsonl"));
    EXPECT_EQ(tree(run), tree(reference)) << "nothing is left over";
  }
};

TEST_F(Kills, ARunThatIsKilledAgainAndAgainEndsWithTheSameBytes) {
  build_data();
  write_recipe(40);
  const Words words{
      FAIRWAY_BINARY, "run", "--recipe", at("toy.toml"), "--train.checkpoint_every", "2", "--out"};
  const auto run = [&](const std::string& out) {
    Words all = words;
    all.push_back(at(out));
    return start(all);
  };
  expect_done(finish(run("whole")));

  const Philox rng(7, 0);
  uint64_t draw = 0;
  int kills = 0;
  std::map<std::string, int> where{{"before training", 0},      {"training", 0},
                                   {"writing a checkpoint", 0}, {"scoring the float model", 0},
                                   {"quantizing", 0},           {"scoring, chunked", 0},
                                   {"scoring, sliding", 0},     {"scoring, ttt", 0}};
  const auto everywhere = [&] {
    return std::all_of(where.begin(), where.end(), [](const auto& w) { return w.second > 0; });
  };
  // Each start gets up to `limit`, longer and longer until it comes further than the one before.
  constexpr double kShortest = 10;
  for (int runs = 0; kills < 60 || !everywhere(); ++runs) {
    ASSERT_LT(runs, 20) << "some stage cannot be hit";
    const std::string out = "cut" + std::to_string(runs);
    std::pair<int64_t, size_t> come{-1, 0};
    for (double limit = kShortest;;) {
      const pid_t pid = run(out);
      std::this_thread::sleep_for(Milliseconds(limit * rng.uniform(draw++)));
      ::kill(pid, SIGKILL);
      const Result r = finish(pid);
      if (r.status == 0) break;  // it was faster
      ASSERT_EQ(r.status, -SIGKILL) << r.err;
      ++kills;
      const auto left = tree(out);
      ++where[stage_of(left)];
      int64_t files = 0;
      for (const auto& name : left) {
        if (!unfinished(name)) continue;
        ++files;
        ++where[name.starts_with("checkpoints/") ? "writing a checkpoint" : "writing another file"];
      }
      EXPECT_LE(files, 2) << "they pile up";
      const auto now = progress(out, left);
      ASSERT_GE(now, come);
      limit = now > come ? kShortest : 1.15 * limit;
      come = now;
    }
    expect_same_results(out, "whole");
  }
  std::string seen = fmt::format("{} kills\n", kills);
  for (const auto& [stage, count] : where) seen += fmt::format("  {}: {}\n", stage, count);
  fmt::print("{}", seen);
}

TEST_F(Kills, AnInterruptedQuantizationLeavesAllOrNothing) {
  build_data();
  write_recipe(2);
  expect_done(fairway({"train", "--recipe", at("toy.toml"), "--out", at("run")}));
  const Words words{FAIRWAY_BINARY,
                    "quantize",
                    at("run/model.safetensors"),
                    "--calibration",
                    at("shards/toy_train_*.bin"),
                    "--out",
                    at("out/m.fairway"),
                    "--no-brotli",
                    "--calibration-batches",
                    "2",
                    "--calibration-batch-tokens",
                    "256",
                    "--calibration-window",
                    "64"};
  fs::create_directories(at("out"));
  ASSERT_EQ(finish(start(words)).status, 0);
  const std::string whole = read_file(at("out/m.fairway"));
  fs::remove(at("out/m.fairway"));
  const Philox rng(8, 0);
  for (uint64_t i = 0; i < 20; ++i) {
    const pid_t pid = start(words);
    std::this_thread::sleep_for(Milliseconds(60 * rng.uniform(i)));
    ::kill(pid, i % 2 == 0 ? SIGINT : SIGTERM);
    const Result r = finish(pid);
    const auto left = tree("out");
    if (r.status == 1) expect_failed(r, 1, "interrupted");  // about to put the file in place
    if (r.status == 0 || !left.empty()) {                   // done, perhaps about to exit
      EXPECT_EQ(left, std::set<std::string>{"m.fairway"});
      EXPECT_TRUE(read_file(at("out/m.fairway")) == whole);
    }
    fs::remove(at("out/m.fairway"));
  }
}

TEST_F(Kills, AStageThatRunsAgainTakesLaterResultsWithIt) {
  build_data();
  write_recipe(40);
  expect_done(run_recipe("run"));
  fs::remove_all(at("run/checkpoints"));
  fs::remove(at("run/model.safetensors"));
  const pid_t pid = start({FAIRWAY_BINARY, "run", "--recipe", at("toy.toml"), "--out", at("run")});
  while (!fs::exists(at("run/checkpoints")))  // training has begun
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ::kill(pid, SIGKILL);
  finish(pid);
  EXPECT_TRUE(fs::is_empty(at("run/stages")));
  const Result r = run_recipe("run");
  expect_done(r);
  EXPECT_EQ(r.out.find("done before"), std::string::npos) << r.out;
}

TEST_F(Kills, OneProcessAtATimeWorksInARun) {
  build_data();
  write_recipe(1'000'000);
  // The others would soon end if they were let in.
  Words train{"train", "--recipe", at("toy.toml"), "--out", at("run"), "--train.steps", "3"};
  Words run = train, restart = train;
  run[0] = "run";
  restart.emplace_back("--restart");
  const pid_t pid =
      start({FAIRWAY_BINARY, "train", "--recipe", at("toy.toml"), "--out", at("run")});
  while (!fs::exists(at("run/metrics.jsonl")))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  // As srun without PMIx starts four: each for itself.
  Words one_of_four{"env", "SLURM_NTASKS=4", FAIRWAY_BINARY};
  one_of_four.insert(one_of_four.end(), train.begin(), train.end());
  expect_failed(finish(start(one_of_four)), 1, "SLURM_NTASKS = 4: if that many were started");
  for (const Words& words : {train, run, restart})
    expect_failed(fairway(words), 1, at("run") + ": another process is at work in this directory");
  ::kill(pid, SIGTERM);
  expect_failed(finish(pid), 1, "interrupted");
  EXPECT_EQ(find_checkpoints(at("run/checkpoints")).size(), 1u);
}

}  // namespace
}  // namespace fairway
