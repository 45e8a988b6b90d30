#include "fairway/plan/flops.h"

namespace fairway {

Flops training_flops(const Network& net, double tokens, double pairs) {
  const ModelConfig& c = net.config;
  const double D = c.model_dim, kv = c.kv_dim(), F = c.mlp_dim(), V = c.vocab_size;
  const double visits = net.slots();
  return {.products = 3 * 2 * tokens * (visits * (2 * D * D + 2 * D * kv + 2 * D * F) + D * V),
          .attention = 7 * 2 * pairs * D * visits};
}

}  // namespace fairway
