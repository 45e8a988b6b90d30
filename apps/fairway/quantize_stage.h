// Float model → artifact, for `fairway quantize` and the stage of `fairway run`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "fairway/comm/process_group.h"
#include "fairway/device/choose.h"
#include "fairway/quant/config.h"
#include "fairway/report/budget.h"

namespace fairway {

struct QuantizeJob {
  std::filesystem::path model;                     // safetensors (or an artifact, quantized again)
  std::vector<std::filesystem::path> calibration;  // shards
  std::filesystem::path out;
  std::optional<uint64_t> tokenizer_hash;  // to record; else as the model or the shards say
  QuantConfig config;
  DeviceChoice
      device;  // of the calibration; its threads do the rest. for_rank makes it each rank's
  bool compare_with_brotli = true;
};

// Writes job.out and returns where its bytes went. Progress goes to the terminal. Collective: every
// rank reads the files and takes its part of the work; rank 0 writes, the others' budget is empty.
Budget quantize(const QuantizeJob& job, ProcessGroup& group);

}  // namespace fairway
