#include "fairway/plan/memory.h"

#include <algorithm>

#include "fairway/base/bf16.h"
#include "fairway/model/weights.h"
#include "fairway/train/trainer.h"

namespace fairway {

int64_t slice_of(int64_t matrices, int ranks) {
  return (matrices + ranks - 1) / ranks;
}

bool computes_in_bfloat16(const TrainConfig& train) {
  return train.device != DeviceKind::cpu && train.matmul_precision != MatmulPrecision::float32;
}

MemoryByName rank_memory(const ModelConfig& model, const OptimConfig& optim,
                         const TrainConfig& train, int ranks) {
  const Arena whole = computes_in_bfloat16(train) ? trainer_memory<bf16>(model, optim, train)
                                                  : trainer_memory<float>(model, optim, train);
  int64_t elsewhere = 0;  // elements of the banks that other ranks own
  for_each(weights_view<float>(model, nullptr), [&](const std::string&, ParamGroup group,
                                                    Tensor<float> w) {
    if (group == ParamGroup::bank)
      elsewhere += (w.extent(0) - slice_of(w.extent(0), ranks)) * w.extent(1) * w.extent(2);
  });
  MemoryByName out;
  for (const auto& [name, bytes] : whole.names()) {
    const bool sharded = name == "Muon momentum" || name == "moving average";
    out.emplace_back(name, static_cast<int64_t>(bytes) -
                               (sharded ? elsewhere * static_cast<int64_t>(sizeof(float)) : 0));
  }
  std::stable_sort(out.begin(), out.end(), [](auto& a, auto& b) { return a.second > b.second; });
  return out;
}

}  // namespace fairway
