// Ctrl-C, SIGTERM and SIGUSR1 as a question that a loop asks between its steps.
#pragma once

#include <array>
#include <csignal>

namespace fairway {

// While one of these lives, the first SIGINT or SIGTERM only sets a flag; a second one ends the
// process as usual. SIGUSR1 sets the flag as often as it comes: launchers pass it on to all ranks
// and do nothing else, where after the others they kill them soon. The handlers that were there
// before come back with the destructor.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool requested() const;

 private:
  std::array<struct sigaction, 3> old_;
};

}  // namespace fairway
