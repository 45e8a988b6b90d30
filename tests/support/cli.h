// The program as its users see it: the built binary (FAIRWAY_BINARY), run as a process on a tiny
// synthetic data set.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "fairway/base/check.h"
#include "fairway/base/rng.h"
#include "fairway/io/atomic_file.h"

extern char** environ;

namespace fairway {

using Words = std::vector<std::string>;

struct Result {
  int status = -1;
  std::string out, err;
};

// A directory of the test's own, and what it takes to run commands there.
class Cli : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = std::filesystem::path(testing::TempDir()) /
           fmt::format("fairway-cli-{}-{}", info->name(), ::getpid());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string at(const std::string& name) const { return dir_ / name; }

  // The command `words` as a shell would start it, stdout and stderr going to files.
  pid_t start(const Words& words) const {
    std::vector<char*> argv;
    for (const auto& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, at("stdout").c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0600);
    posix_spawn_file_actions_addopen(&files, 2, at("stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0600);
    pid_t pid = 0;
    const int error = posix_spawnp(&pid, argv[0], &files, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    check(error == 0, "posix_spawn");
    return pid;
  }
  Result finish(pid_t pid) const {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read_file(at("stdout")),
            read_file(at("stderr"))};
  }
  Result fairway(Words words) const {
    words.insert(words.begin(), FAIRWAY_BINARY);
    return finish(start(words));
  }
  // With a shell in front, for redirections and limits; "$0" is the program.
  Result shell(const std::string& script) const {
    return finish(start({"sh", "-c", script, FAIRWAY_BINARY}));
  }

  void expect_done(const Result& r) const { EXPECT_EQ(r.status, 0) << r.err; }
  // One line on stderr that names `what`.
  void expect_failed(const Result& r, int status, const std::string& what) const {
    EXPECT_EQ(r.status, status) << r.err;
    EXPECT_EQ(r.err.rfind("fairway: ", 0), 0u) << r.err;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_NE(r.err.find(what), std::string::npos) << r.err;
  }
  Words files(const std::string& directory) const {
    Words out;
    for (const auto& e : std::filesystem::directory_iterator(at(directory)))
      out.push_back(e.path().filename());
    std::sort(out.begin(), out.end());
    return out;
  }

  // docs.jsonl: documents of made-up words, 20 to 400 bytes long.
  void write_text() const {
    const Philox rng(1, 0);
    uint64_t i = 0;
    std::string text;
    for (int doc = 0; doc < 120; ++doc) {
      text += "{\"text\": \"";
      for (uint64_t words = 4 + rng.below(i++, 80); words > 0; --words) {
        for (uint64_t letters = 1 + rng.below(i++, 3); letters > 0; --letters)
          for (const std::string_view set : {"bdfklmnprst", "aeiou"})
            text += set[rng.below(i++, set.size())];
        text += words > 1 ? " " : ".\"}\n";
      }
    }
    write_file(at("docs.jsonl"), text);
  }

  // Shards of that text in bytes, 10 documents held out.
  void build_data() const {
    write_text();
    expect_done(fairway({"data", "build", "--input", at("docs.jsonl"), "--tokenizer", "bytes",
                         "--out", at("shards"), "--name", "toy", "--val-docs", "10"}));
  }

  void write_recipe(int steps) const {
    write_file(
        at("toy.toml"),
        fmt::format("[model]\nvocab_size = 260\nnum_layers = 4\nmodel_dim = 32\nnum_heads = 2\n"
                    "num_kv_heads = 1\nrope_dims = 8\nmax_doc_len = 64\nxsa_last_n = 4\n"
                    "num_loops = 1\nloop_start = 1\nloop_end = 1\nparallel_start_layer = 3\n"
                    "[data]\ntrain = [\"{0}/toy_train_*.bin\"]\nval = [\"{0}/toy_val_*.bin\"]\n"
                    "tokenizer = \"bytes\"\n"
                    "[train]\nbatch_tokens = 256\nmicro_steps = 1\nmax_seconds = 0\nsteps = {1}\n"
                    "warmup_steps = 0\nthreads = 1\n"
                    "[quant]\ncalibration_batches = 2\ncalibration_batch_tokens = 256\n"
                    "calibration_window = 64\nkeep_float_elements = 256\n"
                    "[eval]\nbatch_tokens = 256\nwindow = 64\nstride = 16\nmax_docs = 4\n"
                    "[ttt]\nrank = 4\nlr = 0.001\nwindow = 64\n",
                    at("shards"), steps));
  }
  Result run_recipe(const std::string& out, Words more = {}) const {
    more.insert(more.begin(), {"run", "--recipe", at("toy.toml"), "--out", at(out)});
    return fairway(more);
  }

  std::filesystem::path dir_;
};

}  // namespace fairway
