// Seconds that a piece of work takes on a device.
#pragma once

#include <functional>
#include <vector>

#include "fairway/device/run_types.h"

namespace fairway::bench {

// After two runs that do not count: on a CPU the best of a few; on a GPU the median over many of
// the time between two events around `run`. As many as time allows, or `times` (0: not stated),
// which several ranks must agree on if `run` waits for all of them.
double device_seconds(CpuDevice& device, const std::function<void()>& run);
double device_seconds(CudaDevice& device, const std::function<void()>& run, int times = 0);

double median(std::vector<double> values);

}  // namespace fairway::bench
