// `fairway bench ttt`: test-time training on synthetic documents.
#pragma once

#include <string>

#include "fairway/device/choose.h"
#include "fairway/eval/config.h"
#include "fairway/model/config.h"

namespace fairway::bench {

struct TttOptions {
  ModelConfig model;
  TttConfig ttt;
  int64_t doc_tokens = 512;
  int64_t documents = 2;
  int64_t pass_tokens = 0;  // 0: as many as suit the device
  bool graphs = true;       // on a GPU; off: every kernel is launched by itself
  DeviceChoice device;
};

struct TttFigures {
  std::string device;
  double seconds = 0;
  double scored = 0;         // targets
  double window_tokens = 0;  // rows that went through the network
  double product_share = 0;  // of the threads' time; 0 on a GPU
};

TttFigures bench_ttt(const TttOptions& options);

}  // namespace fairway::bench
