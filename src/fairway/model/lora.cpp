#include "fairway/model/lora.h"

namespace fairway {

LoraLayout::LoraLayout(const ModelConfig& model, int slots, const LoraConfig& config)
    : config_(config), slots_(slots), slot_(static_cast<size_t>(slots * kAdapters)) {
  const int64_t D = model.model_dim, kv = model.kv_dim(), R = config.rank;
  const auto place = [&](Place& p, int64_t in, int64_t out) {
    p = {size_, size_ + R * in, in, out};
    size_ += R * (in + out);
  };
  for (int s = 0; s < slots; ++s) {
    Place* p = &slot_[static_cast<size_t>(s * kAdapters)];
    place(p[static_cast<int>(Adapter::q)], D, D);
    if (config.k) place(p[static_cast<int>(Adapter::k)], D, kv);
    place(p[static_cast<int>(Adapter::v)], D, kv);
    if (config.o) place(p[static_cast<int>(Adapter::o)], D, D);
    if (config.mlp) place(p[static_cast<int>(Adapter::mlp)], D, D);
  }
  place(head_, D, model.vocab_size);
}

}  // namespace fairway
