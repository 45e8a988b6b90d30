#include "fairway/eval/config.h"

#include "fairway/base/check.h"

namespace fairway {

namespace {

void demand(bool ok, const char* key, const char* what) {
  if (!ok) usage_fail("{} must be {}", key, what);
}

}  // namespace

void EvalConfig::validate() const {
  demand(batch_tokens >= 1, "[eval] batch_tokens", "at least 1");
  demand(window >= 1, "[eval] window", "at least 1");
  demand(stride >= 1 && stride <= window, "[eval] stride", "between 1 and window");
  demand(max_docs >= 0, "[eval] max_docs", "0 (all) or more");
  demand(pass_tokens >= 1 && pass_tokens <= (int64_t{1} << 24), "[eval] pass_tokens",
         "between 1 and 16777216");
}

void TttConfig::validate() const {
  demand(rank >= 1 && rank <= 65536, "[ttt] rank", "between 1 and 65536");
  demand(lr >= 0, "[ttt] lr", "0 or more");
  demand(weight_decay >= 0, "[ttt] weight_decay", "0 or more");
  demand(beta1 >= 0 && beta1 < 1, "[ttt] beta1", "in [0, 1)");
  demand(beta2 >= 0 && beta2 < 1, "[ttt] beta2", "in [0, 1)");
  demand(eps > 0, "[ttt] eps", "above 0");
  demand(chunk_size >= 1, "[ttt] chunk_size", "at least 1");
  demand(batch_docs >= 1, "[ttt] batch_docs", "at least 1");
  demand(window >= chunk_size, "[ttt] window", "at least chunk_size");
  demand(grad_steps >= 1, "[ttt] grad_steps", "at least 1");
}

}  // namespace fairway
