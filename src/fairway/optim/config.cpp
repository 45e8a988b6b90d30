#include "fairway/optim/config.h"

#include "fairway/base/check.h"

namespace fairway {

void OptimConfig::validate() const {
  const auto not_negative = [](const char* key, double value) {
    if (!(value >= 0)) usage_fail("[optim] {} = {}: must not be negative", key, value);
  };
  const auto below_one = [&](const char* key, double value) {
    if (!(value >= 0 && value < 1))
      usage_fail("[optim] {} = {}: must be at least 0 and below 1", key, value);
  };
  const auto positive = [](const char* key, double value) {
    if (!(value > 0)) usage_fail("[optim] {} = {}: must be positive", key, value);
  };
  not_negative("matrix_lr", matrix_lr);
  not_negative("matrix_weight_decay", matrix_weight_decay);
  below_one("muon_momentum", muon_momentum);
  below_one("muon_momentum_start", muon_momentum_start);
  not_negative("muon_momentum_warmup_steps", muon_momentum_warmup_steps);
  if (newton_schulz_steps < 0 || newton_schulz_steps > 100)
    usage_fail("[optim] newton_schulz_steps = {}: must be between 0 and 100", newton_schulz_steps);
  positive("muon_eps", muon_eps);
  not_negative("embed_lr", embed_lr);
  not_negative("embed_weight_decay", embed_weight_decay);
  not_negative("head_lr", head_lr);
  not_negative("head_weight_decay", head_weight_decay);
  not_negative("small_lr", small_lr);
  not_negative("small_weight_decay", small_weight_decay);
  below_one("beta1", beta1);
  below_one("beta2", beta2);
  positive("adam_eps", adam_eps);
  not_negative("clip_norm", clip_norm);
  below_one("ema_decay", ema_decay);
}

}  // namespace fairway
