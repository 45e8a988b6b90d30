// `fairway bench exchange`: how long ranks take to exchange what a training step exchanges.
#pragma once

#include <string>
#include <vector>

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"
#include "fairway/model/config.h"
#include "fairway/plan/exchange.h"

namespace fairway::bench {

struct ExchangeOptions {
  ModelConfig model;
  DeviceChoice device;            // of this rank
  ProcessGroup* group = nullptr;  // at least two ranks
};

struct ExchangeFigures {
  std::string device;
  // The collectives of a step one by one, then all-reduces of a few sizes. `seconds` is measured:
  // the mean of several issued one behind the other, the median over a few such series.
  std::vector<Exchange> of_step, by_size;
  double step_seconds = 0;  // all of a step's started together, as training does
  // What they come to as `fairway plan` describes links: a ring of ranks, all on one node. Only
  // what such a ring has is set.
  Links links;
};

// Collective; the figures are rank 0's.
ExchangeFigures bench_exchange(const ExchangeOptions& options);

}  // namespace fairway::bench
