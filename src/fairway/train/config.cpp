#include "fairway/train/config.h"

#include "fairway/base/check.h"

namespace fairway {

void TrainConfig::validate() const {
  const auto at_least = [](const char* key, auto value, int64_t least) {
    if (!(value >= least)) usage_fail("[train] {} = {}: must be at least {}", key, value, least);
  };
  at_least("micro_steps", micro_steps, 1);
  at_least("batch_tokens", batch_tokens, 1);
  if (batch_tokens % micro_steps != 0)
    usage_fail("[train] batch_tokens = {}: must be a multiple of micro_steps = {}", batch_tokens,
               micro_steps);
  if (micro_batch_tokens() > (int64_t{1} << 30))
    usage_fail(
        "[train] batch_tokens = {}: a micro-batch of {} tokens is too large; raise micro_steps",
        batch_tokens, micro_batch_tokens());
  at_least("max_seconds", max_seconds, 0);
  at_least("reserve_seconds", reserve_seconds, 0);
  if (max_seconds > 0 && !(reserve_seconds < max_seconds))
    usage_fail("[train] reserve_seconds = {}: must be below max_seconds = {}", reserve_seconds,
               max_seconds);
  at_least("steps", steps, 1);
  if (!(warmdown >= 0 && warmdown <= 1))
    usage_fail("[train] warmdown = {}: must be between 0 and 1", warmdown);
  if (!(min_lr >= 0 && min_lr <= 1))
    usage_fail("[train] min_lr = {}: must be between 0 and 1", min_lr);
  at_least("loop_at", loop_at, 0);
  at_least("warmup_steps", warmup_steps, 0);
  at_least("checkpoint_every", checkpoint_every, 0);
  at_least("checkpoint_seconds", checkpoint_seconds, 0);
  at_least("keep_checkpoints", keep_checkpoints, 1);
  at_least("log_every", log_every, 1);
  at_least("threads", threads, 0);
}

}  // namespace fairway
