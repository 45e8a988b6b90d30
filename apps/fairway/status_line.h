// One line on a terminal that says how far the work is, rewritten a few times a second. Where
// stderr is no terminal it says nothing: what belongs into a log is printed as lines of its own.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string_view>

#include "fairway/base/check.h"

namespace fairway {

class StatusLine {
 public:
  StatusLine() = default;
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  ~StatusLine() { clear(); }

  // Whether show() would be seen and the last one is old enough: ask before composing a text.
  bool due() const {
    return terminal_ && (!shown_ || Clock::now() - last_ >= std::chrono::milliseconds(200));
  }
  void show(std::string_view text) {
    if (!terminal_) return;
    fmt::print(stderr, "\r\033[K{}", text);
    std::fflush(stderr);
    shown_ = true;
    last_ = Clock::now();
  }
  void clear() {
    if (shown_) fmt::print(stderr, "\r\033[K");
    shown_ = false;
  }

  // Since construction.
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_ = ::isatty(STDERR_FILENO) != 0, shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

// "3:07" or "1:02:45".
inline std::string clock_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace fairway
