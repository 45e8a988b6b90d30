// Checkpoints: everything a run needs to continue as if it had never stopped, in one safetensors
// file.
//
// Its tensors are the flat buffers of training ("weights", "momentum", "adam_m", "adam_v", "ema";
// F32, the layout of model/weights.h). Its metadata holds `fairway_checkpoint` = 1, where the run
// stands (step, elapsed, data.epoch, data.shard, data.cursor), the configuration as `section.key`,
// and `checksum`, XXH3 over all of that and every tensor's bytes. Files are complete or absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fairway/data/loader.h"
#include "fairway/io/safetensors.h"

namespace fairway {

// Where a run stands, after `step` finished steps.
struct RunPosition {
  int64_t step = 0;
  double elapsed = 0;   // seconds of training, over all its sittings
  LoaderPosition data;  // of the next batch
  bool operator==(const RunPosition&) const = default;
};

// The settings that make two runs the same run: "section.key" → value.
using RunIdentity = std::map<std::string, std::string>;

struct CheckpointTensor {
  std::string name;
  std::span<const float> values;
};

void save_checkpoint(const std::filesystem::path& path, const RunPosition& position,
                     const RunIdentity& identity, std::span<const CheckpointTensor> tensors);

// What a checkpoint says about itself. Throws Error if the file is no checkpoint, malformed, or its
// checksum does not match.
struct CheckpointInfo {
  RunPosition position;
  RunIdentity identity;
};
CheckpointInfo read_checkpoint_info(const std::filesystem::path& path);
CheckpointInfo read_checkpoint_info(const SafetensorsFile& file);

// Reads a checkpoint of this very run: Error naming the first differing key otherwise. Once the
// whole file has been verified, `load(name, values)` is called for each of `expected`, a tensor
// name and its number of elements.
RunPosition load_checkpoint(
    const std::filesystem::path& path, const RunIdentity& identity,
    const std::vector<std::pair<std::string, int64_t>>& expected,
    const std::function<void(const std::string&, std::span<const float>)>& load);
RunPosition load_checkpoint(
    const SafetensorsFile& file, const RunIdentity& identity,
    const std::vector<std::pair<std::string, int64_t>>& expected,
    const std::function<void(const std::string&, std::span<const float>)>& load);

// The checkpoints of a run directory: DIR/step_00000100.safetensors and so on, by step.
std::filesystem::path checkpoint_path(const std::filesystem::path& directory, int64_t step);
// The step in such a name; -1 if it is none.
int64_t checkpoint_step(const std::filesystem::path& path);
std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& directory);

// Deletes what killed processes left of checkpoints that they were writing. No one else may be
// writing there.
void delete_unfinished_checkpoints(const std::filesystem::path& directory);

// Deletes all but the `keep` newest.
void prune_checkpoints(const std::filesystem::path& directory, int keep);

}  // namespace fairway
