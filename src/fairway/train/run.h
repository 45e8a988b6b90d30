// A whole training run: from a recipe and shards to RUN/model.safetensors.
//
// RUN/metrics.jsonl          one JSON object a step (run_log.h)
// RUN/checkpoints/           the last few checkpoints (checkpoint.h)
// RUN/model.safetensors      the moving average of the weights, written at the end
// RUN/.lock                  while training goes on: only one process may work there
//
// A directory that holds checkpoints is continued from the newest one, at any number of ranks; with
// step schedules and the same number the result is bit for bit that of a run that never stopped.
// Rank 0 writes all files; every rank reads the shards, and the checkpoint it continues from.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>

#include "fairway/comm/process_group.h"
#include "fairway/data/config.h"
#include "fairway/io/file_lock.h"
#include "fairway/model/config.h"
#include "fairway/optim/config.h"
#include "fairway/train/config.h"

namespace fairway {

struct TrainRun {
  ModelConfig model;
  DataConfig data;
  OptimConfig optim;
  TrainConfig train;
  std::filesystem::path out;            // RUN; made if it does not exist
  bool restart = false;                 // delete what an earlier run left instead of continuing it
  bool memory_report = false;           // print the memory taken, by name
  ProcessGroup* group = nullptr;        // the ranks that train together; null: this process alone
  const DirectoryLock* lock = nullptr;  // of `out`, where the caller holds it (rank 0's)
  std::FILE* log = stdout;              // null: quiet
};

struct TrainSummary {
  int64_t steps = 0;   // finished steps, over all sittings
  double elapsed = 0;  // seconds on the training clock
  double loss = 0;     // of the last step of this sitting; NaN if there was none
  std::filesystem::path model;
};

// Settings, as "train.threads", that two sittings of one run may differ in.
const std::set<std::string>& free_settings();

// Collective. Throws UsageError for more ranks than micro-batches; SharedError when the loss or its
// gradient stops being finite (nothing is saved then: the last checkpoint stays), and on SIGINT,
// SIGTERM or SIGUSR1, after a checkpoint: the same call continues from it; Error when a checkpoint
// could not be written (older ones stay).
TrainSummary train(const TrainRun& run);

}  // namespace fairway
