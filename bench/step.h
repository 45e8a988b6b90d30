// `fairway bench step`: one training step, and how much of it is matrix products.
#pragma once

#include <string>

#include "fairway/device/cpu_device.h"
#include "fairway/model/config.h"

namespace fairway::bench {

struct StepOptions {
  ModelConfig model;
  int64_t tokens = 4096;  // of one micro-batch
  int steps = 3;
  bool looped = true;
  int threads = 0;
  MatmulPrecision precision = MatmulPrecision::float32;
};

struct StepFigures {
  int threads = 0;
  int visits = 0;
  double micro_seconds = 0;      // forward + backward of one micro-batch, median
  double optimizer_seconds = 0;  // clip, Muon, AdamW, EMA, median
  double tokens_per_second = 0;  // of micro-batches alone
  double product_share = 0;      // of the threads' time in micro-batches spent in products
  double product_rate = 0;       // useful flops a second inside products, all threads together
  double onednn_rate = 0;        // of the same products as whole oneDNN calls
  double buffers = 0;            // bytes taken by name
  double peak_memory = 0;        // of the process, bytes
  std::string memory_report;
};

StepFigures bench_step(const StepOptions& options);

}  // namespace fairway::bench
