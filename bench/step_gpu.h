// `fairway bench step` on a GPU: one training step against what the GPU can do.
#pragma once

#include <string>

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"
#include "fairway/model/config.h"

namespace fairway::bench {

struct GpuStepOptions {
  ModelConfig model;
  int64_t tokens = 98304;  // of a micro-batch: a step is one on each rank
  int steps = 20;
  bool looped = true;
  MatmulPrecision precision = MatmulPrecision::bfloat16;  // or float8
  bool graphs = true;                                     // off: every kernel is launched by itself
  ProcessGroup* group = nullptr;  // ranks that train together, each on its own GPU; null: one
};

struct GpuStepFigures {
  std::string device;
  int visits = 0;
  double start_seconds = 0;                       // from nothing to the end of the first step
  double step_seconds = 0;                        // forward, backward and update, median
  double optimizer_seconds = 0;                   // clip, Muon, AdamW, EMA, rounding, median
  double tokens_per_second = 0;                   // of all ranks
  double product_flops = 0, attention_flops = 0;  // useful, of one step and rank
  double matmul_rate = 0, bandwidth = 0;          // ceilings, measured in the same run
  double memory = 0;                              // taken on the GPU, bytes
  double loss = 0;
  std::string memory_report;
};

// Elements are bf16. Collective over the ranks of a group; the figures are rank 0's. Throws Error
// without a GPU.
GpuStepFigures bench_step_gpu(const GpuStepOptions& options);

}  // namespace fairway::bench
