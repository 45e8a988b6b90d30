#include "fairway/train/run_log.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string>

#include "fairway/base/check.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/write_error.h"

namespace fairway {

namespace {

constexpr std::string_view kLineStart = "{\"step\":";

// The step of a metrics line, or −1 if it is none (the torn last line of a killed run).
int64_t step_of(std::string_view line) {
  int64_t step = -1;
  if (line.starts_with(kLineStart) && line.ends_with('}'))
    std::from_chars(line.data() + kLineStart.size(), line.data() + line.size(), step);
  return step;
}

void keep_lines_before(const std::filesystem::path& path, int64_t steps) {
  const std::string text = read_file(path);
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    const int64_t step = step_of(line);
    if (step >= 0 && step < steps) kept.append(line).push_back('\n');
    begin = end + 1;
  }
  if (kept != text) write_file(path, kept);
}

std::string duration(double seconds) {
  const int64_t s = std::llround(std::clamp(seconds, 0.0, 1e9));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

// JSON has no NaN or infinity.
std::string number(double x) {
  return std::isfinite(x) ? fmt::format("{:.9g}", x) : "null";
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& path, int64_t steps) : path_(path) {
  if (std::filesystem::exists(path)) keep_lines_before(path, steps);
  file_ = std::fopen(path.c_str(), "ae");
  if (file_ == nullptr) write_failed(path, "open", errno);
}

MetricsLog::~MetricsLog() {
  std::fclose(file_);
}

void MetricsLog::write(const StepRecord& r) {
  fmt::print(file_,
             "{}{},\"loss\":{},\"lr\":{},\"grad_norm\":{},\"tokens_per_second\":{},\"elapsed\":{},"
             "\"looped\":{}}}\n",
             kLineStart, r.step, number(r.loss), number(r.lr_factor), number(r.grad_norm),
             number(r.tokens_per_second), number(r.elapsed), r.looped);
  if (std::fflush(file_) != 0) write_failed(path_, "write", errno);
}

ProgressLog::ProgressLog(std::FILE* out, int64_t every, bool rewrite)
    : out_(out), every_(every), terminal_(out && rewrite && ::isatty(::fileno(out))) {}

void ProgressLog::step(const StepRecord& r, int64_t steps, double seconds_left) {
  if (!out_ || (!terminal_ && r.step % every_ != 0 && r.step + 1 != steps)) return;
  const std::string text =
      fmt::format("step {}/{}  loss {:.4f}  {:.0f} tokens/s  {} left{}", r.step, steps, r.loss,
                  r.tokens_per_second, duration(seconds_left), r.looped ? "  looped" : "");
  if (terminal_) {
    clear();
    fmt::print(out_, "{}", text);
    shown_ = true;
  } else {
    fmt::print(out_, "{}\n", text);
  }
  std::fflush(out_);
}

void ProgressLog::line(std::string_view text) {
  if (!out_) return;
  clear();
  fmt::print(out_, "{}\n", text);
  std::fflush(out_);
}

void ProgressLog::clear() {
  if (shown_) fmt::print(out_, "\r\x1b[K");
  shown_ = false;
}

}  // namespace fairway
