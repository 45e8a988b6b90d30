// `fairway bench checkpoint`: what a checkpoint costs the training beside which it is written.
#pragma once

#include <cstdint>
#include <filesystem>

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"
#include "fairway/model/config.h"

namespace fairway::bench {

struct CheckpointOptions {
  ModelConfig model;
  int64_t tokens = 4096;  // of one step, on each rank
  int checkpoints = 3;
  DeviceChoice device;              // of this rank
  ProcessGroup* group = nullptr;    // ranks that train together; null: this process alone
  std::filesystem::path directory;  // on the disk to be measured; what is written there goes again
};

struct CheckpointFigures {
  double bytes = 0;           // of one checkpoint
  double first_seconds = 0;   // that training is held up by the first, whose memory is new
  double held_seconds = 0;    // by a later one: median
  double write_seconds = 0;   // until it is on disk, with no training beside it
  double write_cpu = 0;       // processor seconds of that
  double step_seconds = 0;    // median, nothing else going on
  double slowed_seconds = 0;  // what the steps beside one write take longer than that: median
};

// Collective; the figures are rank 0's.
CheckpointFigures bench_checkpoint(const CheckpointOptions& options);

}  // namespace fairway::bench
