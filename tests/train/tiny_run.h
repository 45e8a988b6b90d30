// A run of seconds: a tiny model on documents that are easy to learn.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/data/shard.h"
#include "fairway/io/safetensors.h"
#include "fairway/train/run.h"
#include "support/small_model.h"

namespace fairway::testing {

// Documents that count upwards in steps of one to three from a random token: predictable after two.
inline void write_shards(const std::filesystem::path& directory, int64_t shard_tokens = 3000) {
  const Philox rng(5, 6);
  ShardWriter writer(directory, "set_train", shard_tokens);
  uint64_t draw = 0;
  for (int doc = 0; doc < 300; ++doc) {
    std::vector<uint16_t> tokens = {1};
    const uint64_t length = 5 + rng.below(draw++, 50), stride = 1 + rng.below(draw++, 3);
    uint64_t token = rng.below(draw++, 30);
    for (uint64_t i = 0; i < length; ++i, token = (token + stride) % 30)
      tokens.push_back(static_cast<uint16_t>(2 + token));
    writer.append(tokens);
  }
  writer.commit();
}

// On the shards of `directory`, without a clock; `out` is not set.
inline TrainRun tiny_run(const std::filesystem::path& directory) {
  TrainRun run;
  run.model = small_model(/*vocab_size=*/32);
  run.data.train = {(directory / "set_train_*.bin").string()};
  run.optim.muon_momentum_warmup_steps = 10;
  run.optim.ema_decay = 0.9;
  run.train.batch_tokens = 256;
  run.train.micro_steps = 2;
  run.train.max_seconds = 0;
  run.train.steps = 20;
  run.train.warmup_steps = 0;
  run.train.threads = 1;
  run.log = nullptr;
  return run;
}

// Every tensor of a checkpoint; its clock and checksum differ from run to run.
inline std::map<std::string, std::vector<float>> tensors_of(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, std::vector<float>> out;
  for (const auto& [name, entry] : file.entries()) out[name] = file.read<float>(name);
  return out;
}

}  // namespace fairway::testing
