// `fairway bench ops`: each op alone, against the time that its bytes or flops must take.
#pragma once

#include <string>
#include <vector>

#include "fairway/device/choose.h"
#include "fairway/model/config.h"

namespace fairway::bench {

struct OpFigure {
  std::string name;
  double seconds = 0;
  double bytes = 0, flops = 0;  // least bytes moved (each input and output once), useful flops
  double floor = 0;             // max(bytes/bandwidth, flops/rate)
};

struct OpsFigures {
  double bandwidth = 0;  // bytes a second
  double rate = 0;       // flops a second
  std::vector<OpFigure> ops;
};

struct OpsOptions {
  ModelConfig model;
  int64_t tokens = 4096;
  DeviceChoice device;
};

OpsFigures bench_ops(const OpsOptions& options);

}  // namespace fairway::bench
