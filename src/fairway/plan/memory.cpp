#include "fairway/plan/memory.h"

#include <algorithm>

#include "fairway/base/bf16.h"
#include "fairway/optim/sharding.h"
#include "fairway/train/trainer_buffers.h"

namespace fairway {

bool computes_in_bfloat16(const TrainConfig& train) {
  return train.device != DeviceKind::cpu && train.matmul_precision != MatmulPrecision::float32;
}

namespace {

// The GPUs that a plan is for are Hopper's.
E4m3Mlp mlp_operands(const ModelConfig& model, const TrainConfig& train) {
  if (train.matmul_precision != MatmulPrecision::float8) return E4m3Mlp::off;
  const bool bytes = computes_in_bfloat16(train) && mlp_e4m3_fits(model.model_dim, model.mlp_dim());
  return bytes ? E4m3Mlp::bytes : E4m3Mlp::values;
}

}  // namespace

MemoryByName rank_memory(const ModelConfig& model, const TrainConfig& train, int ranks) {
  const Shard shard(model, 0, ranks);
  const E4m3Mlp mlp = mlp_operands(model, train);
  Arena dry;
  if (computes_in_bfloat16(train))
    take_trainer_buffers<bf16>(model, train, shard, mlp, dry);
  else
    take_trainer_buffers<float>(model, train, shard, mlp, dry);
  MemoryByName out;
  for (const auto& [name, bytes] : dry.names()) out.emplace_back(name, bytes);
  std::stable_sort(out.begin(), out.end(), [](auto& a, auto& b) { return a.second > b.second; });
  return out;
}

}  // namespace fairway
