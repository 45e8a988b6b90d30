#include "fairway/train/run.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <type_traits>

#include "fairway/base/check.h"
#include "fairway/base/fields.h"
#include "fairway/comm/rank_device.h"
#include "fairway/data/loader.h"
#include "fairway/data/shard.h"
#include "fairway/io/write_error.h"
#include "fairway/optim/schedule.h"
#include "fairway/train/checkpoint.h"
#include "fairway/train/checkpoint_writer.h"
#include "fairway/train/interrupt.h"
#include "fairway/train/run_log.h"
#include "fairway/train/trainer.h"

namespace fairway {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

RunIdentity identity_of(const TrainRun& run, const std::vector<fs::path>& shards) {
  RunIdentity identity;
  const auto add = [&](const std::string& section, const auto& config) {
    std::remove_cvref_t<decltype(config)>::visit_fields(
        config, [&](const char* name, const auto& value, const char*) {
          const std::string key = section + "." + name;
          if (free_settings().count(key) == 0) identity[key] = format_field(value);
        });
  };
  add("model", run.model);
  add("optim", run.optim);
  add("train", run.train);
  // The shards count by name and size: where they lie may change, what they hold may not.
  identity["data.bos"] = format_field(run.data.bos);
  identity["data.cu_seqlens_bucket"] = format_field(run.data.cu_seqlens_bucket);
  std::string names;
  for (const auto& shard : shards) {
    std::error_code error;
    const auto bytes = fs::file_size(shard, error);
    names += fmt::format("{}{} ({} bytes)", names.empty() ? "" : ", ", shard.filename().string(),
                         error ? 0 : bytes);
  }
  identity["data.train"] = names;
  return identity;
}

template <class Device, class T>
class Run {
 public:
  Run(Device& device, const TrainRun& run, ProcessGroup& group)
      : run_(run),
        group_(group),
        checkpoints_(run.out / "checkpoints"),
        shards_(find_shards(run.data.train)),
        identity_(identity_of(run, shards_)),
        progress_(group.root() ? run.log : nullptr, run.train.log_every, group.size() == 1),
        trainer_(device, run.model, run.optim, run.train, &group),
        loader_(shards_, loader_options()) {
    if (group_.root()) {
      prepare_directory();
      writer_.emplace(checkpoints_, identity_, run.train.keep_checkpoints, trainer_.state_sizes());
      describe(device.name());
    }
    trainer_.warm_up(run.train.warmup_steps);
    if (!resume()) trainer_.init();
  }

  TrainSummary train() {
    const fs::path model = run_.out / "model.safetensors";
    double loss = std::numeric_limits<double>::quiet_NaN();
    if (finished() && group_.broadcast(fs::exists(model))) {
      progress_.line(fmt::format("already trained for {} steps: nothing to do", position_.step));
    } else {
      if (!finished()) loss = loop();
      std::vector<float> ema(group_.root() ? static_cast<size_t>(flat_size(run_.model)) : 0);
      trainer_.download_state("ema", ema);
      if (group_.root()) save_model(model, run_.model, ema.data());
      progress_.line(fmt::format("{} steps in {:.1f} s: {}", position_.step, position_.elapsed,
                                 model.string()));
    }
    return {position_.step, position_.elapsed, loss, model};
  }

 private:
  LoaderOptions loader_options() const {
    LoaderOptions options;
    options.tokens = run_.train.micro_batch_tokens();
    options.max_doc_len = run_.model.max_doc_len;
    options.bos = run_.data.bos;
    options.rank = group_.rank();
    options.world = group_.size();
    options.micro_steps = run_.train.micro_steps;
    options.vocab_size = run_.model.vocab_size;
    options.bucket = run_.data.cu_seqlens_bucket;
    return options;
  }

  void describe(const std::string& device) {
    const auto mebibytes = [](size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
    const std::string ranks =
        group_.size() == 1 ? "" : fmt::format("{} ranks, each ", group_.size());
    progress_.line(fmt::format(
        "model: {:.2f} M parameters; {}memory: {:.0f} MiB, and {:.0f} MiB of the host for "
        "checkpoints; {}",
        static_cast<double>(num_params(run_.model)) * 1e-6, ranks,
        mebibytes(trainer_.memory_bytes()), mebibytes(writer_->memory_bytes()), device));
    if (run_.train.micro_steps % group_.size() != 0)
      progress_.line(fmt::format(
          "[train] micro_steps = {} is no multiple of {} ranks: some wait while others work",
          run_.train.micro_steps, group_.size()));
    if (run_.memory_report)
      progress_.line(fmt::format("{}{:>12.1f} MiB  checkpoint on its way to disk (host)\n",
                                 trainer_.memory_report(), mebibytes(writer_->memory_bytes())));
  }

  void prepare_directory() {
    if (!run_.lock) lock_.emplace(run_.out, launch_hint(group_));
    if (run_.restart)
      for (const auto& left :
           {checkpoints_, run_.out / "metrics.jsonl", run_.out / "model.safetensors"})
        delete_all(left);
    make_directories(checkpoints_);
    delete_unfinished_checkpoints(checkpoints_);
  }

  bool resume() {
    const auto found = find_checkpoints(checkpoints_);
    // Rank 0 says which: another rank's view of the directory may be older.
    const int64_t step = group_.broadcast(found.empty() ? -1 : checkpoint_step(found.back()));
    if (step < 0) return false;
    const fs::path newest = checkpoint_path(checkpoints_, step);
    position_ = load_checkpoint(newest, identity_, trainer_.state_sizes(),
                                [&](const std::string& name, std::span<const float> values) {
                                  trainer_.upload_state(name, values);
                                });
    loader_.seek(position_.data);
    // A kill may have come before it.
    if (group_.root()) prune_checkpoints(checkpoints_, run_.train.keep_checkpoints);
    progress_.line(fmt::format("continuing from {}: step {}, {:.1f} s on the clock",
                               newest.string(), position_.step, position_.elapsed));
    return true;
  }

  // Collective. Training goes on while it is being written, by rank 0.
  void checkpoint() {
    if (writer_) {
      writer_->write(position_, [&](const std::string& name, std::span<float> values) {
        trainer_.download_state(name, values);
      });
    } else {
      for (const auto& [name, size] : trainer_.state_sizes()) trainer_.download_state(name, {});
    }
    saved_at_ = position_.elapsed;
  }

  // What rank 0's clock says and whether any rank was asked to stop: the same on all.
  struct Agreement {
    double elapsed = 0;
    bool interrupted = false;
  };
  Agreement agree(double elapsed, bool interrupted) {
    std::array<double, 2> sums{group_.root() ? elapsed : 0, interrupted ? 1.0 : 0.0};
    group_.sum(sums);
    return {sums[0], sums[1] > 0};
  }

  double cap() const {
    return run_.train.max_seconds > 0 ? run_.train.max_seconds - run_.train.reserve_seconds : 0;
  }
  double f() const { return progress(position_.step, run_.train.steps, position_.elapsed, cap()); }
  bool finished() const { return f() >= 1 || position_.step >= run_.train.steps; }

  bool checkpoint_due() const {
    const TrainConfig& t = run_.train;
    return (t.checkpoint_every > 0 && position_.step % t.checkpoint_every == 0) ||
           (t.checkpoint_seconds > 0 && position_.elapsed - saved_at_ >= t.checkpoint_seconds);
  }

  // Trains until finished; returns the last step's loss.
  double loop() {
    std::optional<MetricsLog> metrics;
    if (group_.root()) metrics.emplace(run_.out / "metrics.jsonl", position_.step);
    const InterruptGuard interrupt;
    const double elapsed_before = position_.elapsed;
    const auto start = Clock::now();
    saved_at_ = position_.elapsed;
    double loss = 0, step_seconds = 0;
    while (!finished()) {
      const StepPlan plan{position_.step, lr_factor(f(), run_.train.warmdown, run_.train.min_lr),
                          f() >= run_.train.loop_at};
      position_.data = loader_.position();
      const auto result = trainer_.step(
          plan, [&] { return loader_.next(); }, [&] { return interrupt.requested(); });
      if (!result) stop_interrupted();
      if (!std::isfinite(result->loss) || !std::isfinite(result->grad_norm))
        stop_not_finite(*result);

      const Agreement agreed = agree(elapsed_before + seconds_since(start), interrupt.requested());
      const double now = agreed.elapsed, seconds = now - position_.elapsed;
      position_.elapsed = now;
      ++position_.step;
      position_.data = loader_.position();
      loss = result->loss;
      const double tokens = static_cast<double>(run_.train.batch_tokens);
      const StepRecord record{plan.step,        loss, plan.lr_factor, result->grad_norm,
                              tokens / seconds, now,  plan.looped};
      if (metrics) metrics->write(record);
      step_seconds = step_seconds == 0 ? seconds : 0.9 * step_seconds + 0.1 * seconds;
      double left = static_cast<double>(run_.train.steps - position_.step) * step_seconds;
      if (cap() > 0) left = std::min(left, cap() - now);
      progress_.step(record, run_.train.steps, left);

      if (writer_) writer_->check_last();
      if (agreed.interrupted && !finished()) stop_interrupted();
      if (checkpoint_due() || finished()) checkpoint();
    }
    finish_writing();
    return loss;
  }

  // Until the last checkpoint is on disk, as every rank then knows.
  void finish_writing() {
    if (writer_) writer_->finish();
    group_.broadcast(true);
  }

  [[noreturn]] void stop_interrupted() {
    progress_.line(fmt::format("stopping: writing a checkpoint at step {}", position_.step));
    checkpoint();
    finish_writing();
    throw SharedError(fmt::format(
        "training was interrupted after {} steps; {} holds it: run the same command to continue",
        position_.step, checkpoint_path(checkpoints_, position_.step).string()));
  }

  [[noreturn]] void stop_not_finite(const StepResult& result) {
    finish_writing();
    const auto found = find_checkpoints(checkpoints_);
    throw SharedError(fmt::format(
        "step {}: the loss is {} and the gradient's norm {}: training stopped; {}; lower the "
        "learning rates ([optim]) and start over with --restart",
        position_.step, result.loss, result.grad_norm,
        found.empty() ? "there was no checkpoint yet"
                      : "the last good checkpoint is " + found.back().string()));
  }

  const TrainRun& run_;
  ProcessGroup& group_;
  fs::path checkpoints_;
  std::vector<fs::path> shards_;
  RunIdentity identity_;
  ProgressLog progress_;
  Trainer<Device, T> trainer_;
  TrainLoader loader_;
  std::optional<DirectoryLock> lock_;       // outlives what writes there
  std::optional<CheckpointWriter> writer_;  // rank 0's
  RunPosition position_;
  double saved_at_ = 0;  // clock of the newest checkpoint
};

}  // namespace

const std::set<std::string>& free_settings() {
  static const std::set<std::string> keys = {"train.device",           "train.threads",
                                             "train.warmup_steps",     "train.log_every",
                                             "train.checkpoint_every", "train.checkpoint_seconds",
                                             "train.keep_checkpoints"};
  return keys;
}

TrainSummary train(const TrainRun& run) {
  run.model.validate();
  run.optim.validate();
  run.train.validate();
  const auto alone = make_single_process();
  ProcessGroup& group = run.group ? *run.group : *alone;
  if (run.train.micro_steps < group.size())
    usage_fail(
        "[train] micro_steps = {}: fewer than the {} ranks, each of which needs micro-batches of "
        "its own; raise micro_steps or start fewer ranks",
        run.train.micro_steps, group.size());
  const DeviceChoice choice{run.train.device, run.train.threads, run.train.matmul_precision};
  return with_device(for_rank(choice, group),
                     [&]<class Device, class T>(Device& device, std::type_identity<T>) {
                       TrainSummary summary = Run<Device, T>(device, run, group).train();
                       group.broadcast(true);  // rank 0 has written all files
                       return summary;
                     });
}

}  // namespace fairway
