// Where a run stands, and what follows from it (SPEC §4, "Schedule"). Pure functions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fairway/optim/config.h"

namespace fairway {

// Progress f: elapsed/seconds under a time cap (seconds > 0), otherwise step/steps. `step` counts
// finished steps.
inline double progress(int64_t step, int64_t steps, double elapsed, double seconds) {
  return seconds > 0 ? elapsed / seconds : static_cast<double>(step) / static_cast<double>(steps);
}

// 1 until f = 1 − warmdown, then (1 − f)/warmdown; never below min_lr.
inline double lr_factor(double f, double warmdown, double min_lr) {
  if (f < 1 - warmdown || warmdown <= 0) return 1;
  return std::max((1 - f) / warmdown, min_lr);
}

// μ of Muon at a step (0 for the first): linear from muon_momentum_start to muon_momentum.
inline double momentum_at(const OptimConfig& c, int64_t step) {
  if (step >= c.muon_momentum_warmup_steps) return c.muon_momentum;
  const double t = static_cast<double>(step) / c.muon_momentum_warmup_steps;
  return c.muon_momentum_start + t * (c.muon_momentum - c.muon_momentum_start);
}

}  // namespace fairway
