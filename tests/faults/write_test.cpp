// Every write can fail: on a full disk, on a broken one. Then the program says so in one line and
// ends with status 1; what was there before is there still, and the same command, started again
// when the disk is well, ends with the same bytes.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "fairway/train/checkpoint.h"
#include "support/cli.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class FailingWrites : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    write_text();
  }

  // The program on a disk below out/ that does as failing_writes.cpp says.
  Result on_faulty_disk(const Words& faults, const Words& words) const {
    Words all{"env", std::string("LD_PRELOAD=") + FAILING_WRITES,
              "ASAN_OPTIONS=verify_asan_link_order=0", "FAULT_DIR=" + at("out")};
    all.insert(all.end(), faults.begin(), faults.end());
    all.push_back(FAIRWAY_BINARY);
    all.insert(all.end(), words.begin(), words.end());
    return finish(start(all));
  }
  // The `n`-th call that changes something there fails with `error`.
  Result failing(int n, int error, const Words& words) const {
    return on_faulty_disk({"FAULT_AT=" + std::to_string(n), "FAULT_ERRNO=" + std::to_string(error),
                           "FAULT_LOG=" + at("fault")},
                          words);
  }

  // Names and bytes of the files below out/.
  using Files = std::map<std::string, std::string>;
  Files contents() const {
    Files files;
    for (const auto& entry : fs::recursive_directory_iterator(at("out")))
      if (entry.is_regular_file())
        files[fs::relative(entry.path(), at("out")).string()] = read_file(entry.path());
    return files;
  }
  void set_contents(const Files& files) const {
    fs::remove_all(at("out"));
    fs::create_directories(at("out"));
    for (const auto& [name, bytes] : files) std::ofstream(at("out/") + name) << bytes;
  }

  struct Command {
    Words words;         // writes below out/ alone
    Words results;       // what it leaves there that is the same whenever it is run
    Files before{};      // what is there before
    int stride = 1;      // tries every so many-th call
    bool whole = false;  // its results come together or not at all
  };

  void expect_nothing_half_done(const Command& command, const Files& done) const {
    const Files now = contents();
    for (const auto& entry : fs::recursive_directory_iterator(at("out"))) {
      const std::string name = entry.path().filename();
      EXPECT_FALSE(name.ends_with(".tmp") || name.starts_with(".")) << entry.path();
    }
    for (const auto& [name, bytes] : now)
      EXPECT_TRUE(!name.ends_with(".json") || bytes == "older" || Json::accept(bytes)) << name;
    for (const auto& path : find_checkpoints(at("out/checkpoints")))
      EXPECT_NO_THROW(read_checkpoint_info(path)) << path;
    EXPECT_TRUE(!command.whole || now == command.before || now == done) << "half of a set";
    for (const auto& name : command.results) {
      const bool was_there = command.before.contains(name), is_there = now.contains(name);
      EXPECT_TRUE(is_there || !was_there) << name << " is lost";
      EXPECT_TRUE(!is_there || now.at(name) == done.at(name) ||
                  (was_there && now.at(name) == command.before.at(name)))
          << name << " is neither the older one nor the new one";
    }
  }
  void expect_results(const Command& command, const Files& done) const {
    expect_nothing_half_done(command, done);
    const Files now = contents();
    for (const auto& name : command.results)
      EXPECT_TRUE(now.contains(name) && now.at(name) == done.at(name)) << name;
  }

  // Training with checkpoints so large that most of one goes past the system's cache.
  Command large_training() const {
    return {{"train", "--recipe", at("toy.toml"), "--model.model_dim", "96", "--train.steps", "1",
             "--out", at("out")},
            {"model.safetensors"}};
  }

  // Fails the command's 1st, 2nd, … call, until there are no more.
  void fail_each_call(const Command& command) const {
    set_contents(command.before);
    expect_done(fairway(command.words));
    const Files done = contents();
    int failures = 0;
    for (const int error : {ENOSPC, EIO})
      for (int n = error == EIO ? 1 + command.stride / 2 : 1; !HasFailure(); n += command.stride) {
        set_contents(command.before);
        fs::remove(at("fault"));
        const Result r = failing(n, error, command.words);
        if (!fs::exists(at("fault"))) {
          expect_done(r);
          expect_results(command, done);
          break;
        }
        SCOPED_TRACE(
            fmt::format("call {}, {}: {}", n, std::strerror(error), read_file(at("fault"))));
        ++failures;
        // The reason, and a remedy.
        expect_failed(r, 1, std::string(std::strerror(error)) + "; ");
        EXPECT_NE(r.err.find(at("out")), std::string::npos) << r.err;
        expect_nothing_half_done(command, done);
        expect_done(fairway(command.words));
        expect_results(command, done);
      }
    EXPECT_GT(failures, 5);
    fmt::print("{} failures\n", failures);
  }
};

TEST_F(FailingWrites, TokenizerTrain) {
  fail_each_call({{"tokenizer", "train", "--input", at("docs.jsonl"), "--vocab-size", "280",
                   "--out", at("out/toy.model")},
                  {"toy.model"},
                  {{"toy.model", "older"}}});
}

TEST_F(FailingWrites, DataBuild) {
  const Words shards{"toy.json", "toy_train_000000.bin", "toy_val_000000.bin"};
  Words words{"data", "build",  "--input", at("docs.jsonl"), "--tokenizer", "bytes", "--val-docs",
              "10",   "--name", "toy",     "--out",          at("out")};
  fail_each_call({words, shards, {}, 3, true});
  // In place of an older set.
  words.emplace_back("--overwrite");
  Files older{{"toy_train_000001.bin", "older"}};
  for (const auto& name : shards) older[name] = "older";
  fail_each_call({words, shards, older, 3, true});
}

TEST_F(FailingWrites, TrainAndRun) {
  build_data();
  write_recipe(4);
  const Words more{"--recipe", at("toy.toml"), "--train.checkpoint_every", "2", "--out", at("out")};
  Words train{"train"}, run{"run"};
  train.insert(train.end(), more.begin(), more.end());
  run.insert(run.end(), more.begin(), more.end());
  fail_each_call({train, {"model.safetensors"}, {}, 2});
  fail_each_call(
      {run, {"recipe.toml", "model.safetensors", "model.fairway", "budget.json"}, {}, 10});
}

TEST_F(FailingWrites, LargeCheckpoints) {
  build_data();
  write_recipe(2);
  fail_each_call(large_training());
}

TEST_F(FailingWrites, WritesInPartsAreNoFailures) {
  build_data();
  write_recipe(2);
  const Command build{{"data", "build", "--input", at("docs.jsonl"), "--tokenizer", "bytes",
                       "--out", at("out"), "--name", "toy"},
                      {"toy.json", "toy_train_000000.bin"}};
  for (const Command& command : {build, large_training()}) {
    set_contents({});
    expect_done(fairway(command.words));
    const Files done = contents();
    set_contents({});
    expect_done(on_faulty_disk({"FAULT_PARTS=1"}, command.words));
    expect_results(command, done);
  }
}

TEST_F(FailingWrites, QuantizeAndEval) {
  build_data();
  write_recipe(2);
  expect_done(fairway({"train", "--recipe", at("toy.toml"), "--out", at("trained")}));
  const std::string model = at("trained/model.safetensors");
  fail_each_call({{"quantize", model, "--calibration", at("shards/toy_train_*.bin"), "--out",
                   at("out/m.fairway"), "--json", at("out/budget.json"), "--calibration-batches",
                   "2", "--calibration-batch-tokens", "256", "--calibration-window", "64",
                   "--no-brotli", "--threads", "1"},
                  {"m.fairway", "budget.json"},
                  {{"m.fairway", "older"}, {"budget.json", "older"}},
                  2});
  fail_each_call({{"eval", model, "--data", at("shards/toy_val_*.bin"), "--mode", "chunked",
                   "--max-docs", "4", "--json", at("out/score.json"), "--nll", at("out/nll")},
                  {"nll"},
                  {{"nll", "older"}},
                  2});
}

}  // namespace
}  // namespace fairway
