#include "fairway/plan/memory.h"

#include <algorithm>

#include "fairway/base/bf16.h"
#include "fairway/optim/sharding.h"
#include "fairway/train/trainer_buffers.h"

namespace fairway {

bool computes_in_bfloat16(const TrainConfig& train) {
  return train.device != DeviceKind::cpu && train.matmul_precision != MatmulPrecision::float32;
}

MemoryByName rank_memory(const ModelConfig& model, const TrainConfig& train, int ranks) {
  const Shard shard(model, 0, ranks);
  Arena dry;
  if (computes_in_bfloat16(train))
    take_trainer_buffers<bf16>(model, train, shard, dry);
  else
    take_trainer_buffers<float>(model, train, shard, dry);
  MemoryByName out;
  for (const auto& [name, bytes] : dry.names()) out.emplace_back(name, bytes);
  std::stable_sort(out.begin(), out.end(), [](auto& a, auto& b) { return a.second > b.second; });
  return out;
}

}  // namespace fairway
