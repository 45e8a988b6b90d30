// `fairway run`: every stage of a recipe, from text shards to a scored artifact.
//
// RUN/recipe.toml      the recipe of this run, all keys
// RUN/stages/*.json    the result of each finished stage; a stage that has one is not run again
// RUN/model.safetensors, RUN/model.fairway, RUN/budget.json, RUN/report.json,
// RUN/report.md

#include "fairway/train/run.h"

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "commands.h"
#include "eval_stage.h"
#include "fairway/base/fields.h"
#include "fairway/data/shard.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/file_lock.h"
#include "fairway/io/write_error.h"
#include "fairway/report/report.h"
#include "quantize_stage.h"
#include "recipe_options.h"

namespace fairway {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

struct Options {
  std::string recipe, out;
  bool restart = false;
};

// Runs stages in order and remembers their results. Once a stage has had to run, those after it run
// too: what they were given has changed.
//
// All ranks pass through all stages together; rank 0 alone looks at the files and writes them. A
// stage begins with its word on whether there is work, which it gives when everything before is
// written.
class Stages {
 public:
  Stages(fs::path directory, size_t count, ProcessGroup& group)
      : directory_(std::move(directory)), count_(count), group_(group) {}

  // `product`: a file that the stage leaves for later ones, or "". The result is rank 0's;
  // elsewhere it is empty.
  Json run(const std::string& name, const fs::path& product, const std::function<Json()>& work) {
    if (!group_.root()) {
      if (group_.broadcast(true)) work();
      return {};
    }
    const fs::path path = directory_ / (name + ".json");
    ++number_;
    passed_.insert(path);
    if (!changed_ && fs::exists(path) && (product.empty() || fs::exists(product))) {
      Json result = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
      require(result.is_object(), "{}: damaged; delete it to run this stage again", path.string());
      fmt::print("[{}/{}] {}: done before\n", number_, count_, name);
      group_.broadcast(false);
      return result;
    }
    // What later stages said is about something else now, also if this run is stopped before them.
    if (!changed_)
      for (const auto& entry : fs::directory_iterator(directory_))
        if (!passed_.contains(entry.path())) delete_all(entry.path());
    changed_ = true;
    delete_all(path);
    fmt::print("[{}/{}] {}\n", number_, count_, name);
    std::fflush(stdout);
    group_.broadcast(true);
    Json result = work();
    write_file(path, result.dump(2) + "\n");
    return result;
  }

 private:
  fs::path directory_;
  size_t count_, number_ = 0;
  ProcessGroup& group_;
  std::set<fs::path> passed_;  // results of the stages so far
  bool changed_ = false;
};

// Whatever would stop a later stage is found out before the first one.
void check_inputs(const Recipe& recipe) {
  const auto shards = find_shards(recipe.data.train), val = find_shards(recipe.data.val);
  for (const auto& shard : val)
    for (const auto& other : shards)
      require(!fs::equivalent(shard, other),
              "{}: is training and validation text at once; the score would mean nothing",
              shard.string());
  check_tokenizer(recipe, shards);
  check_tokenizer(recipe, val);
}

// The directory belongs to one recipe, but for settings that training may be continued with. With
// `restart` what an earlier run left is deleted first.
void claim_directory(const fs::path& out, const Recipe& recipe, bool restart) {
  const fs::path kept = out / "recipe.toml";
  if (restart)
    for (const char* name :
         {"stages", "checkpoints", "metrics.jsonl", "model.safetensors", "model.fairway",
          "budget.json", "report.json", "report.md", "recipe.toml"})
      delete_all(out / name);
  else if (fs::exists(kept))
    if (const auto key =
            first_difference(parse_recipe(read_file(kept), kept.string()), recipe, free_settings()))
      usage_fail(
          "{}: begun with another recipe ({}); use --restart to begin again, or another --out",
          out.string(), *key);
  make_directories(out / "stages");
  if (!fs::exists(kept)) write_file(kept, to_toml(recipe));
}

void run(const Options& o, const Recipe& recipe, ProcessGroup& group) {
  check_inputs(recipe);
  const fs::path out = o.out;
  std::optional<DirectoryLock> lock;
  if (group.root()) {
    lock.emplace(out, launch_hint(group));
    claim_directory(out, recipe, o.restart);
  }
  const fs::path model = out / "model.safetensors", artifact = out / "model.fairway";

  Stages stages(out / "stages", 3 + recipe.run.modes.size(), group);
  Report report;

  const Json trained = stages.run("train", model, [&] {
    TrainRun job;
    job.model = recipe.model;
    job.data = recipe.data;
    job.optim = recipe.optim;
    job.train = recipe.train;
    job.out = out;
    job.group = &group;
    job.lock = lock ? &*lock : nullptr;
    const TrainSummary done = train(job);
    return Json{{"steps", done.steps},
                {"tokens", done.steps * recipe.train.batch_tokens},
                {"seconds", done.elapsed}};
  });

  const auto score = [&](const std::string& which, const fs::path& file, const std::string& mode) {
    const std::string name = fmt::format("eval-{}-{}", which, mode);
    const Json result = stages.run(name, "", [&] {
      EvalJob job;
      job.model = file;
      job.data = recipe.data.val;
      job.tokenizer = recipe.data.tokenizer;
      job.device = {recipe.train.device, recipe.train.threads};
      job.eval = recipe.eval;
      job.eval.matmul_precision = eval_precision(recipe);
      job.ttt = recipe.ttt;
      parse_field("[run] modes", mode, job.eval.mode);
      return Json::parse(to_json(evaluate(job, group).score));
    });
    if (!group.root()) return;
    const fs::path path = out / "stages" / (name + ".json");
    report.lines.push_back({which, mode, score_from_json(result.dump(), path.string())});
  };
  score("float", model, "chunked");

  const Json packed = stages.run("quantize", artifact, [&] {
    const auto start = std::chrono::steady_clock::now();
    QuantizeJob job;
    job.model = model;
    job.calibration =
        find_shards(recipe.run.calibration.empty() ? recipe.data.train : recipe.run.calibration);
    job.out = artifact;
    if (!recipe.data.tokenizer.empty())
      job.tokenizer_hash = Tokenizer::load(recipe.data.tokenizer).hash();
    job.config = recipe.quant;
    job.device = {recipe.train.device, recipe.train.threads, recipe.train.matmul_precision};
    job.compare_with_brotli = false;
    const Budget budget = quantize(job, group);
    if (!group.root()) return Json();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    fmt::print("{}", to_markdown(budget));
    write_file(out / "budget.json", to_json(budget));
    return Json{{"artifact_bytes", budget.artifact.total},
                {"source_bytes", budget.total() - budget.artifact.total},
                {"seconds", seconds.count()}};
  });
  for (const auto& mode : recipe.run.modes) score("artifact", artifact, mode);
  if (!group.root()) return;

  report.train_steps = trained.value("steps", int64_t{0});
  report.train_tokens = trained.value("tokens", int64_t{0});
  report.train_seconds = trained.value("seconds", 0.0);
  report.quantize_seconds = packed.value("seconds", 0.0);
  report.artifact_bytes = packed.value("artifact_bytes", uint64_t{0});
  report.source_bytes = packed.value("source_bytes", uint64_t{0});
  write_file(out / "report.json", to_json(report));
  write_file(out / "report.md", to_markdown(report));
  fmt::print("\n{}\n{}\n", to_markdown(report), (out / "report.json").string());
}

}  // namespace

void add_run(CLI::App& app, ProcessGroup& group) {
  CLI::App* command = app.add_subcommand(
      "run",
      "Train, quantize, score and report: all stages of a recipe, each where the last left off");
  auto o = std::make_shared<Options>();
  add_recipe_options(*command, o->recipe);
  command->add_option("--out", o->out, "directory of the run: made, or continued where it stopped")
      ->required()
      ->type_name("RUN");
  command->add_flag("--restart", o->restart, "delete what an earlier run left in RUN, begin again");
  command->callback([o, command, &group] { run(*o, chosen_recipe(*command, o->recipe), group); });
}

}  // namespace fairway
