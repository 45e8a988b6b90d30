#include "timer.h"

#include <algorithm>

#include "machine.h"

namespace fairway::bench {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double device_seconds(CpuDevice&, const std::function<void()>& run) {
  run();
  double best = 1e30, spent = 0;
  for (int i = 0; i < 20 && (i < 3 || spent < 0.5); ++i) {
    const double start = seconds_now();
    run();
    const double seconds = seconds_now() - start;
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

}  // namespace fairway::bench
