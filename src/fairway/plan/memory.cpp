#include "fairway/plan/memory.h"

#include <algorithm>

#include "fairway/base/bf16.h"
#include "fairway/train/trainer.h"

namespace fairway {

bool computes_in_bfloat16(const TrainConfig& train) {
  return train.device != DeviceKind::cpu && train.matmul_precision != MatmulPrecision::float32;
}

MemoryByName rank_memory(const ModelConfig& model, const OptimConfig& optim,
                         const TrainConfig& train, int ranks) {
  const Arena dry_run = computes_in_bfloat16(train)
                            ? trainer_memory<bf16>(model, optim, train, ranks)
                            : trainer_memory<float>(model, optim, train, ranks);
  MemoryByName out;
  for (const auto& [name, bytes] : dry_run.names())
    out.emplace_back(name, static_cast<int64_t>(bytes));
  std::stable_sort(out.begin(), out.end(), [](auto& a, auto& b) { return a.second > b.second; });
  return out;
}

}  // namespace fairway
