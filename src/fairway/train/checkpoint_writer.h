// Checkpoints written beside training: what a checkpoint holds is copied to host memory of its own,
// and another thread puts it on disk while training goes on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fairway/base/arena.h"
#include "fairway/train/checkpoint.h"

namespace fairway {

class CheckpointWriter {
 public:
  // Checkpoints of the run `identity` go to `directory`, which exists by the first write(); the
  // `keep` newest stay. `tensors`: names and numbers of elements of all that a checkpoint holds.
  // The memory for them is taken in the background, beside the first steps.
  CheckpointWriter(std::filesystem::path directory, RunIdentity identity, int keep,
                   const std::vector<std::pair<std::string, int64_t>>& tensors);
  // Destruction waits for a write that is still going on. What went wrong in it is lost: finish().

  // Takes a snapshot, calling fill(name, values) for each tensor to copy it to `values`, and
  // returns while it is being written. Waits only for an earlier write that is still going on.
  // Older checkpoints are deleted once the new one is on disk. Throws Error if the earlier write
  // failed; older checkpoints are untouched then.
  using Fill = std::function<void(const std::string& name, std::span<float> values)>;
  void write(const RunPosition& position, const Fill& fill);

  // Throws what went wrong in a write that has ended. Never waits.
  void check_last();

  // Waits until the last checkpoint is on disk. Throws Error if it is not.
  void finish();

  size_t memory_bytes() const { return memory_.bytes(); }

 private:
  std::filesystem::path directory_;
  RunIdentity identity_;
  int keep_;
  HostBuffer memory_;
  std::vector<std::pair<std::string, std::span<float>>> snapshot_;
  std::future<void> going_on_;  // last, so that nothing it uses is destroyed before it has ended
};

}  // namespace fairway
