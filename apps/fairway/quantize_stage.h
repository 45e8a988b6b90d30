// Float model → artifact, for `fairway quantize` and the stage of `fairway run`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

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
  DeviceChoice device;  // of the calibration; its threads do the rest
  bool compare_with_brotli = true;
};

// Writes job.out and returns where its bytes went. Progress goes to the terminal.
Budget quantize(const QuantizeJob& job);

}  // namespace fairway
