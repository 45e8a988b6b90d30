// The program as its users see it: the built binary, run as a process on a tiny synthetic data set.
#include "support/cli.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "fairway/io/atomic_file.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

TEST_F(Cli, HelpExplainsEveryCommand) {
  for (const Words& command : {Words{},
                               {"tokenizer", "train"},
                               {"data", "build"},
                               {"train"},
                               {"quantize"},
                               {"eval"},
                               {"run"},
                               {"inspect"},
                               {"plan"},
                               {"bench", "step"},
                               {"bench", "ops"},
                               {"bench", "ttt"},
                               {"bench", "quantize"},
                               {"bench", "checkpoint"},
                               {"bench", "data"}}) {
    Words words = command;
    words.push_back("--help");
    const Result r = fairway(words);
    expect_done(r);
    // Its own help: `--help` behind a word that is no command prints the program's.
    const std::string usage = fmt::format("Usage: fairway {}{}[OPTIONS]", fmt::join(command, " "),
                                          command.empty() ? "" : " ");
    EXPECT_NE(r.out.find(usage), std::string::npos) << r.out;
    EXPECT_TRUE(r.err.empty()) << r.err;
  }
  EXPECT_EQ(fairway({"--version"}).out.rfind("fairway ", 0), 0u);
  // Every recipe key is documented where it can be given.
  EXPECT_NE(fairway({"train", "--help"}).out.find("--optim.ema_decay"), std::string::npos);
  EXPECT_NE(fairway({"run", "--help"}).out.find("--ttt.chunk_size"), std::string::npos);
}

TEST_F(Cli, WrongCommandLinesExitWith2) {
  expect_failed(fairway({}), 2, "fairway --help");
  expect_failed(fairway({"trian"}), 2, "fairway --help");
  expect_failed(fairway({"data"}), 2, "fairway data --help");
  expect_failed(fairway({"eval", "x", "--data", "y", "--no-such-option"}), 2, "--no-such-option");
  expect_failed(fairway({"eval", "x", "--data", "y", "--mode", "best"}), 2, "chunked");
  expect_failed(fairway({"run", "--out", at("run")}), 2, "--recipe");
  write_recipe(1);
  const auto train = [&](const std::string& word) {
    return fairway({"train", "--recipe", at("toy.toml"), "--out", at("run"), word});
  };
  expect_failed(train("--train.stesp=3"), 2, "did you mean 'steps'?");
  expect_failed(train("--steps=3"), 2, "--section.key");
  expect_failed(train("--model.num_heads=7"), 2, "num_heads = 7");
  expect_failed(train("--train.steps=many"), 2, "'many' is not an integer");
  expect_failed(train("--train.matmul_precision=fp8"), 2, "auto, float32, bfloat16, float8");
  const std::vector<std::string> float8 = {"--matmul-precision", "float8", "--device", "cpu"};
  const auto in_float8 = [&](std::vector<std::string> words) {
    words.insert(words.end(), float8.begin(), float8.end());
    return fairway(words);
  };
  expect_failed(in_float8({"bench", "ops"}), 2, "only training and scoring compute in it");
  write_file(at("toy.toml"), "[model]\nnum_layers = \"four\"\n");
  expect_failed(train("--train.steps=3"), 2, at("toy.toml") + ":2:");
  EXPECT_FALSE(fs::exists(at("run")));
}

TEST_F(Cli, WorkThatCannotBeDoneExitsWith1) {
  write_text();
  write_recipe(1);
  write_file(at("junk"), "this is no file of ours");
  const std::string none = at("none");
  expect_failed(
      fairway({"tokenizer", "train", "--input", none, "--vocab-size", "300", "--out", at("t")}), 1,
      none);
  expect_failed(fairway({"data", "build", "--input", at("docs.jsonl"), "--tokenizer", at("junk"),
                         "--out", at("shards")}),
                1, at("junk"));
  expect_failed(fairway({"train", "--recipe", none, "--out", at("run")}), 1, none);
  expect_failed(fairway({"train", "--recipe", at("toy.toml"), "--out", at("run")}), 1,
                "toy_train_");
  expect_failed(fairway({"run", "--recipe", at("toy.toml"), "--out", at("run")}), 1, "toy_train_");
  expect_failed(fairway({"quantize", none, "--calibration", none, "--out", at("m.fairway")}), 1,
                none);
  expect_failed(fairway({"eval", at("junk"), "--data", none}), 1, at("junk"));
  expect_failed(fairway({"inspect", at("junk")}), 1, at("junk"));
  expect_failed(fairway({"inspect", none}), 1, none);
  expect_failed(fairway({"inspect", at("line\nbreak\x1b[2J")}), 1, at("line break [2J"));
  EXPECT_FALSE(fs::exists(at("m.fairway")));
}

// Whatever GPU there may be is hidden, as ctest hides it: then it is the driver that has none.
TEST_F(Cli, DeviceCudaSaysWhatIsMissing) {
  const Result r = shell("CUDA_VISIBLE_DEVICES= \"$0\" bench step --device cuda");
  expect_failed(r, 1, "--device cuda: ");
  EXPECT_NE(r.err.find("or use --device cpu"), std::string::npos) << r.err;
#if FAIRWAY_WITH_CUDA
  const bool driver = ::dlopen("libcuda.so.1", RTLD_NOW) != nullptr;
  const bool named = driver ? r.err.find("shows no GPU") != std::string::npos ||
                                  r.err.find("driver is too old") != std::string::npos
                            : r.err.find("no NVIDIA driver found") != std::string::npos;
  EXPECT_TRUE(named) << r.err;
#else
  EXPECT_NE(r.err.find("built without CUDA"), std::string::npos) << r.err;
#endif
}

TEST_F(Cli, PlanForetellsWithoutDataOrDevice) {
  write_recipe(100);
  const auto plan = [&](Words words) {
    words.insert(words.begin(), {"plan", "--recipe", at("toy.toml"), "--train.micro_steps", "4"});
    return fairway(words);
  };
  const Result one = plan({"--gpus", "2", "--json", at("plan.json")});
  expect_done(one);
  for (const char* shown :
       {"an H100 in bfloat16", "Muon momentum", "reduce-scatter", "with looping", "| efficiency |"})
    EXPECT_NE(one.out.find(shown), std::string::npos) << shown << one.out;
  const Json two = Json::parse(read_file(at("plan.json")))["plans"][0];
  EXPECT_EQ(two["gpus"], 2);
  EXPECT_EQ(two["micro_batches"], 2);
  EXPECT_EQ(two["tokens"], 100 * 256);
  int64_t memory = 0;
  for (const auto& [name, bytes] : two["memory"].items()) memory += bytes.get<int64_t>();
  EXPECT_EQ(two["memory_bytes"], memory);

  // Several numbers: a line each, and figures of one's own.
  const Result list = plan({"--gpus", "1-3,4", "--tokens-per-second", "1000,500", "--optimizer-ms",
                            "5", "--json", at("plan.json")});
  expect_done(list);
  EXPECT_EQ(list.out.find("Muon momentum"), std::string::npos) << list.out;
  const Json plans = Json::parse(read_file(at("plan.json")))["plans"];
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_NE(list.out.find("as --tokens-per-second says"), std::string::npos) << list.out;
  EXPECT_EQ(plans[2]["gpus"], 3);
  EXPECT_NEAR(plans[0]["plain_step"]["seconds"], 0.256 + 0.005, 1e-9);
  EXPECT_NEAR(plans[0]["looped_step"]["seconds"], 0.512 + 0.005, 1e-9);
  EXPECT_NEAR(plans[2]["plain_step"]["compute_seconds"], 2 * 0.064, 1e-9);

  const Result float8 = plan({"--gpus", "2", "--train.matmul_precision", "float8"});
  expect_done(float8);
  EXPECT_NE(float8.out.find("an H100 in float8"), std::string::npos) << float8.out;

  expect_failed(plan({}), 2, "--gpus");
  expect_failed(plan({"--gpus", "0"}), 2, "between 1 and 1024");
  expect_failed(plan({"--gpus", "1-1025"}), 2, "between 1 and 1024");
  expect_failed(plan({"--gpus", "4-2"}), 2, "backwards");
  expect_failed(plan({"--gpus", "many"}), 2, "'many' is not an integer");
  expect_failed(plan({"--gpus", "1,8"}), 2, "raise train.micro_steps to a multiple of 8");
  expect_failed(plan({"--gpus", "2", "--train.batch_tokens", "255"}), 2, "batch_tokens = 255");
  expect_failed(plan({"--gpus", "2", "--train.stesp=3"}), 2, "did you mean 'steps'?");
  expect_failed(plan({"--gpus", "2", "--train.device=cpu"}), 2, "--tokens-per-second");
  expect_failed(plan({"--gpus", "2", "--json", at("no/plan.json")}), 1, at("no/plan.json"));
}

TEST_F(Cli, OutputThatCannotBeWrittenIsAFailure) {
  build_data();
  const std::string inspect = "\"$0\" inspect " + at("shards/toy_val_000000.bin");
  const Result r = shell(inspect + " >/dev/full");
  EXPECT_EQ(r.status, 1);
  EXPECT_NE(r.err.find("standard output"), std::string::npos) << r.err;
  // A limit of one block (512 bytes) stands for a full disk.
  expect_failed(shell("ulimit -f 1; \"$0\" data build --input " + at("docs.jsonl") +
                      " --tokenizer bytes --out " + at("full")),
                1, at("full"));
  EXPECT_FALSE(fs::exists(at("full")));
}

// The program itself says whether there is a GPU: `auto` takes it then.
TEST_F(Cli, AMissingDeviceIsNamed) {
  build_data();
  write_recipe(1);
  expect_done(fairway({"train", "--recipe", at("toy.toml"), "--out", at("cpu")}));
  const Words step{"bench", "step",    "--recipe", at("toy.toml"), "--tokens",
                   "64",    "--steps", "1",        "--device"};
  const auto with = [](Words words, const std::string& last) {
    words.push_back(last);
    return words;
  };
  if (fairway(with(step, "auto")).out.rfind("64 tokens", 0) != 0) GTEST_SKIP() << "a GPU is here";
  const std::string model = at("cpu/model.safetensors"), data = at("shards/toy_val_*.bin");
  const std::string artifact = at("gpu.fairway");
  expect_failed(fairway(with(step, "cuda")), 1, "--device cuda");
  expect_failed(fairway({"eval", model, "--data", data, "--device", "cuda"}), 1, "--device cuda");
  expect_failed(fairway({"quantize", model, "--calibration", data, "--tokenizer", "bytes", "--out",
                         artifact, "--device", "cuda"}),
                1, "--device cuda");
  EXPECT_FALSE(fs::exists(artifact));
  expect_failed(run_recipe("gpu", {"--train.device=cuda"}), 1, "--device cuda");
  EXPECT_FALSE(fs::exists(at("gpu/model.safetensors")));
}

TEST_F(Cli, AnInterruptedBuildLeavesNothing) {
  write_text();
  // The same text so often that it takes seconds.
  std::string text;
  while (text.size() < 4'000'000) text += read_file(at("docs.jsonl"));
  write_file(at("docs.jsonl"), text);
  Words build{FAIRWAY_BINARY, "data", "build", "--tokenizer", "bytes", "--val-docs", "10"};
  for (int i = 0; i < 500; ++i) build.insert(build.end(), {"--input", at("docs.jsonl")});
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1})
    for (const bool was_there : {false, true}) {
      const std::string out = was_there ? "there" : "new";
      Words words = build;
      words.insert(words.end(), {"--out", at(out)});
      if (was_there) fs::create_directories(at(out));
      const pid_t pid = start(words);
      // Its unfinished shards lie in directories of their own.
      const auto begun = [&] {
        if (!fs::exists(at(out))) return false;
        for (const auto& e : fs::recursive_directory_iterator(at(out)))
          if (e.is_regular_file()) return true;
        return false;
      };
      for (int i = 0; i < 20000 && !begun(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ASSERT_EQ(::kill(pid, signal), 0);
      expect_failed(finish(pid), 1, at(out) + ": interrupted; nothing was written");
      EXPECT_EQ(fs::exists(at(out)), was_there);
      if (was_there) {
        EXPECT_TRUE(fs::is_empty(at(out)));
      }
    }
}

TEST_F(Cli, RunDoesEverythingAndTheArtifactAloneGivesItsScore) {
  build_data();
  write_recipe(6);
  const Result r = run_recipe("run");
  expect_done(r);
  for (const char* row : {"float model, chunked", "artifact, chunked", "artifact, sliding",
                          "artifact, test-time training", "of 16,000,000"})
    EXPECT_NE(r.out.find(row), std::string::npos) << r.out;

  const Json report = Json::parse(read_file(at("run/report.json")));
  EXPECT_EQ(report["artifact_bytes"], fs::file_size(at("run/model.fairway")));
  EXPECT_EQ(report["train_steps"], 6);
  ASSERT_EQ(report["evaluations"].size(), 4u);
  for (const Json& line : report["evaluations"]) {
    const bool is_float = line["model"] == "float";
    const std::string mode = line["mode"];
    expect_done(
        fairway({"eval",           at(is_float ? "run/model.safetensors" : "run/model.fairway"),
                 "--data",         at("shards/toy_val_*.bin"),
                 "--tokenizer",    "bytes",
                 "--mode",         mode,
                 "--batch-tokens", "256",
                 "--window",       "64",
                 "--stride",       "16",
                 "--max-docs",     "4",
                 "--rank",         "4",
                 "--lr",           "0.001",
                 "--json",         at("score.json"),
                 "--nll",          at("nll")}));
    const Json score = Json::parse(read_file(at("score.json")));
    for (const char* key :
         {"nats_per_token", "bpb", "tokens", "bytes", "ranks", "matmul_precision"})
      EXPECT_EQ(score[key], line[key]) << mode << " " << key;
    EXPECT_EQ(fs::file_size(at("nll")), 4 * score["tokens"].get<size_t>());
  }

  // Without a tokenizer there is nothing to count bytes with.
  expect_done(fairway({"eval", at("run/model.fairway"), "--data", at("shards/toy_val_*.bin"),
                       "--mode", "chunked", "--json", at("score.json")}));
  const Json score = Json::parse(read_file(at("score.json")));
  EXPECT_TRUE(score["bpb"].is_null());
  EXPECT_TRUE(score["bytes"].is_null());
  EXPECT_TRUE(score["nats_per_token"].is_number());

  for (const char* file :
       {"run/model.fairway", "run/model.safetensors", "shards/toy_val_000000.bin"}) {
    const Result seen = fairway({"inspect", at(file)});
    expect_done(seen);
    EXPECT_NE(seen.out.find(at(file)), std::string::npos) << seen.out;
  }
}

// What was trained in float8 is scored as everything else, unless [eval] says float8 too.
TEST_F(Cli, ScoresInFloat8WhereItIsAskedFor) {
  build_data();
  write_recipe(6);
  const auto scores_of_run = [&](const std::string& out, const std::string& precision, Words more) {
    more.insert(more.end(), {"--train.matmul_precision=float8", "--run.modes=ttt"});
    expect_done(run_recipe(out, more));
    const Json report = Json::parse(read_file(at(out) + "/report.json"));
    std::vector<double> nats;
    for (const Json& line : report["evaluations"]) {
      nats.push_back(line["nats_per_token"]);
      EXPECT_EQ(line["matmul_precision"], precision);
    }
    return nats;
  };
  const auto scores_of_eval = [&](const std::string& precision) {
    std::vector<double> nats;
    for (const auto& [model, mode] :
         {std::pair{"model.safetensors", "chunked"}, {"model.fairway", "ttt"}}) {
      expect_done(fairway({"eval",
                           at("plain/") + model,
                           "--data",
                           at("shards/toy_val_*.bin"),
                           "--mode",
                           mode,
                           "--batch-tokens",
                           "256",
                           "--window",
                           "64",
                           "--max-docs",
                           "4",
                           "--rank",
                           "4",
                           "--lr",
                           "0.001",
                           "--matmul-precision",
                           precision,
                           "--json",
                           at("score.json")}));
      nats.push_back(Json::parse(read_file(at("score.json")))["nats_per_token"]);
    }
    return nats;
  };
  const auto plain = scores_of_run("plain", "float32", {});
  const auto float8 = scores_of_run("float8", "float8", {"--eval.matmul_precision=float8"});
  EXPECT_EQ(scores_of_eval("auto"), plain);
  EXPECT_EQ(scores_of_eval("float8"), float8);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_NE(plain[i], float8[i]);
  const Result bench =
      fairway({"bench", "ttt", "--recipe", at("toy.toml"), "--doc-tokens", "40", "--documents", "1",
               "--device", "cpu", "--matmul-precision", "float8", "--json", at("bench.json")});
  expect_done(bench);
  EXPECT_NE(bench.out.find("the MLP's rounded to float8"), std::string::npos) << bench.out;
  EXPECT_EQ(Json::parse(read_file(at("bench.json")))["matmul_precision"], "float8");
}

TEST_F(Cli, StagesOfARunAreCommandsOfTheirOwn) {
  write_text();
  expect_done(fairway({"tokenizer", "train", "--input", at("docs.jsonl"), "--vocab-size", "300",
                       "--out", at("toy.model")}));
  expect_done(fairway({"data", "build", "--input", at("docs.jsonl"), "--tokenizer", at("toy.model"),
                       "--out", at("shards"), "--name", "toy", "--val-docs", "10"}));
  write_recipe(6);
  const Words overrides{"--model.vocab_size", "300", "--data.tokenizer", at("toy.model")};
  expect_done(run_recipe("run", overrides));

  Words train{"train", "--recipe", at("toy.toml"), "--out", at("alone")};
  train.insert(train.end(), overrides.begin(), overrides.end());
  expect_done(fairway(train));
  EXPECT_EQ(read_file(at("alone/model.safetensors")), read_file(at("run/model.safetensors")));
  expect_done(fairway({"quantize", at("alone/model.safetensors"), "--calibration",
                       at("shards/toy_train_000000.bin"), "--tokenizer", at("toy.model"), "--out",
                       at("alone/model.fairway"), "--calibration-batches", "2",
                       "--calibration-batch-tokens", "256", "--calibration-window", "64",
                       "--keep-float-elements", "256", "--threads", "1"}));
  EXPECT_EQ(read_file(at("alone/model.fairway")), read_file(at("run/model.fairway")));
  EXPECT_NE(fairway({"inspect", at("toy.model")}).out.find("300"), std::string::npos);
}

TEST_F(Cli, InputsThatDoNotFitTogetherAreRefused) {
  write_text();
  const auto tokenizer = [&](const std::string& name, const std::string& bytes) {
    expect_done(fairway({"tokenizer", "train", "--input", at("docs.jsonl"), "--vocab-size", "300",
                         "--max-bytes", bytes, "--out", at(name)}));
  };
  tokenizer("a.model", "100000");
  tokenizer("b.model", "2000");
  for (const std::string name : {"a", "b"})
    expect_done(fairway({"data", "build", "--input", at("docs.jsonl"), "--tokenizer",
                         at(name + ".model"), "--out", at("shards"), "--name",
                         name == "a" ? "toy" : "other", "--val-docs", "10"}));
  write_recipe(1);
  const auto refused = [&](const std::string& command, Words more, const std::string& what) {
    more.insert(more.begin(), {command, "--recipe", at("toy.toml"), "--out", at("run")});
    expect_failed(fairway(more), 1, what);
    EXPECT_FALSE(fs::exists(at("run")));
  };
  const std::string vocab = "--model.vocab_size=300";
  for (const std::string command : {"run", "train"}) {
    refused(command, {vocab}, "bytes: has 260 pieces; set [model] vocab_size (now 300)");
    refused(command, {vocab, "--data.tokenizer", at("b.model")},
            at("shards/toy_train_000000.bin") + ": built with another tokenizer");
  }
  refused(
      "run",
      {vocab, "--data.tokenizer", at("a.model"), "--data.val", at("shards/other_val_000000.bin")},
      at("shards/other_val_000000.bin") + ": built with another tokenizer");
  refused("run",
          {vocab, "--data.tokenizer", at("a.model"), "--data.val",
           at("shards/toy_val_000000.bin") + "," + at("shards/toy_train_000000.bin")},
          "training and validation text at once");

  expect_done(
      run_recipe("done", {vocab, "--data.tokenizer", at("a.model"), "--run.modes", "chunked"}));
  const auto eval = [&](const std::string& model, const std::string& shards, Words more) {
    more.insert(more.begin(), {"eval", at(model), "--data", at(shards), "--mode", "chunked"});
    return fairway(more);
  };
  expect_done(eval("done/model.fairway", "shards/toy_val_000000.bin", {}));
  expect_failed(eval("done/model.fairway", "shards/other_val_000000.bin", {}), 1,
                "made with another tokenizer than the one " + at("done/model.fairway"));
  expect_failed(
      eval("done/model.fairway", "shards/toy_val_000000.bin", {"--tokenizer", at("b.model")}), 1,
      "built with another tokenizer");
  expect_failed(
      eval("done/model.fairway", "shards/other_val_000000.bin", {"--tokenizer", at("b.model")}), 1,
      "not the tokenizer that");
  expect_failed(
      eval("done/model.safetensors", "shards/toy_val_000000.bin", {"--tokenizer", "bytes"}), 1,
      "built with another tokenizer");
  fs::remove(at("shards/toy.json"));
  expect_failed(
      eval("done/model.safetensors", "shards/toy_val_000000.bin", {"--tokenizer", "bytes"}), 1,
      "bytes: has 260 pieces");
}

TEST_F(Cli, RunContinuesAtTheStageWhereItStopped) {
  build_data();
  write_recipe(6);
  const auto count = [](const Result& r, const std::string& what) {
    size_t n = 0;
    for (size_t p = r.out.find(what); p != std::string::npos; p = r.out.find(what, p + 1)) ++n;
    return n;
  };
  expect_done(run_recipe("run"));
  const std::string model = read_file(at("run/model.safetensors"));
  const std::string report = read_file(at("run/report.json"));
  const size_t stages = files("run/stages").size();
  EXPECT_EQ(stages, 6u);

  const Result again = run_recipe("run");
  expect_done(again);
  EXPECT_EQ(count(again, "done before"), stages);
  EXPECT_EQ(read_file(at("run/report.json")), report);

  // As if stopped during quantization: that stage and those after it run again, training does not.
  fs::remove(at("run/model.fairway"));
  const auto trained = fs::last_write_time(at("run/model.safetensors"));
  const Result rest = run_recipe("run", {"--train.threads", "2", "--train.log_every", "1"});
  expect_done(rest);
  EXPECT_EQ(count(rest, "done before"), 2u);
  EXPECT_EQ(fs::last_write_time(at("run/model.safetensors")), trained);

  // Another recipe is refused, until told to begin again.
  expect_failed(run_recipe("run", {"--train.steps", "7"}), 2, "--train.steps was 6, is 7");
  EXPECT_EQ(read_file(at("run/model.safetensors")), model);
  const Result restarted = run_recipe("run", {"--train.steps", "7", "--restart"});
  expect_done(restarted);
  EXPECT_EQ(count(restarted, "done before"), 0u);
  EXPECT_NE(read_file(at("run/model.safetensors")), model);
}

TEST_F(Cli, InterruptedTrainingContinuesBitForBit) {
  build_data();
  const int steps = 100;
  write_recipe(steps);
  const Words modes{"--run.modes", "chunked"};
  expect_done(run_recipe("whole", modes));

  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    const std::string cut = fmt::format("cut{}", signal);
    const pid_t pid = start({FAIRWAY_BINARY, "run", "--recipe", at("toy.toml"), "--out", at(cut),
                             "--run.modes", "chunked"});
    const auto lines = [&] {
      const std::string path = at(cut + "/metrics.jsonl");
      if (!fs::exists(path)) return std::ptrdiff_t{0};
      const std::string text = read_file(path);
      return std::count(text.begin(), text.end(), '\n');
    };
    for (int i = 0; i < 20000 && lines() < 3; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_EQ(::kill(pid, signal), 0);
    expect_failed(finish(pid), 1, "interrupted");
    EXPECT_LT(lines(), steps);
    EXPECT_EQ(files(cut + "/checkpoints").size(), 1u);
    EXPECT_FALSE(fs::exists(at(cut + "/model.safetensors")));

    expect_done(run_recipe(cut, modes));
    for (const char* file : {"/model.safetensors", "/model.fairway"})
      EXPECT_TRUE(read_file(at(cut + file)) == read_file(at(std::string("whole") + file))) << file;
  }
}

TEST_F(Cli, ALogThatCannotBeWrittenDoesNotEndTraining) {
  build_data();
  write_recipe(150);
  const Result r = shell("\"$0\" train --recipe " + at("toy.toml") + " --train.log_every 1 --out " +
                         at("run") + " >/dev/full");
  expect_failed(r, 1, "standard output");
  EXPECT_TRUE(fs::exists(at("run/model.safetensors")));
}

}  // namespace
}  // namespace fairway
