// Ctrl-C and SIGTERM as a question that a loop asks between its steps.
#pragma once

#include <csignal>

namespace fairway {

// While one of these lives, the first SIGINT or SIGTERM only sets a flag; a second one ends the
// process as usual. The handlers that were there before come back with the destructor.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool requested() const;

 private:
  struct sigaction old_int_, old_term_;
};

}  // namespace fairway
