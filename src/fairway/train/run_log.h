// What a training run tells: RUN/metrics.jsonl for programs, a progress line or log lines for
// people.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string_view>

namespace fairway {

// One line of metrics.jsonl: {"step":0,"loss":…,"lr":…,"grad_norm":…,"tokens_per_second":…,
// "elapsed":…,"looped":…}. `step` counts from 0; loss and norm are those before its update; `lr` is
// the learning-rate factor; `elapsed` the training clock in seconds at the end of the step.
struct StepRecord {
  int64_t step = 0;
  double loss = 0, lr_factor = 0, grad_norm = 0, tokens_per_second = 0, elapsed = 0;
  bool looped = false;
};

class MetricsLog {
 public:
  // Opens the log of a run that continues after `steps` finished steps: lines of later steps, left
  // by a run that went on after its last checkpoint, are dropped.
  MetricsLog(const std::filesystem::path& path, int64_t steps);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Appends a line and hands it to the system at once.
  void write(const StepRecord& record);

 private:
  std::filesystem::path path_;
  std::FILE* file_;
};

// On a terminal one line that is rewritten in place; elsewhere a line every `every` steps. A null
// stream keeps quiet. Not `rewrite`: a terminal counts as none. Launchers give ranks terminals of
// their own, whatever becomes of what they print.
class ProgressLog {
 public:
  ProgressLog(std::FILE* out, int64_t every, bool rewrite = true);

  void step(const StepRecord& record, int64_t steps, double seconds_left);
  // A line of its own.
  void line(std::string_view text);

 private:
  void clear();

  std::FILE* out_;
  int64_t every_;
  bool terminal_, shown_ = false;
};

}  // namespace fairway
