#include "fairway/train/interrupt.h"

namespace fairway {

namespace {
volatile std::sig_atomic_t interrupted = 0;  // signal handlers can reach nothing else
constexpr std::array<int, 3> kSignals = {SIGINT, SIGTERM, SIGUSR1};
}  // namespace

InterruptGuard::InterruptGuard() {
  interrupted = 0;
  for (size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags =
        static_cast<int>(kSignals[i] == SIGUSR1 ? SA_RESTART : SA_RESETHAND | SA_RESTART);
    sigemptyset(&action.sa_mask);
    sigaction(kSignals[i], &action, &old_[i]);
  }
}

InterruptGuard::~InterruptGuard() {
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &old_[i], nullptr);
}

bool InterruptGuard::requested() const {
  return interrupted != 0;
}

}  // namespace fairway
