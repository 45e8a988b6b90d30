#include "fairway/eval/config.h"

#include "fairway/base/check.h"

namespace fairway {

namespace {

// Bounds keep sums of positions far from overflow; no machine has memory for more rows than that.
constexpr int64_t kMostRows = int64_t{1} << 24, kMostTokens = int64_t{1} << 40;

template <class T>
void demand(bool ok, const char* key, T value, const char* what) {
  if (!ok) usage_fail("{} = {}: must be {}", key, value, what);
}

}  // namespace

void EvalConfig::validate() const {
  demand(batch_tokens >= 1 && batch_tokens <= kMostTokens, "[eval] batch_tokens", batch_tokens,
         "between 1 and 2^40");
  demand(window >= 1 && window <= kMostRows, "[eval] window", window, "between 1 and 2^24");
  demand(stride >= 1 && stride <= window, "[eval] stride", stride, "between 1 and window");
  demand(max_docs >= 0, "[eval] max_docs", max_docs, "0 (all) or more");
  demand(pass_tokens >= 0 && pass_tokens <= kMostRows, "[eval] pass_tokens", pass_tokens,
         "between 0 (as many as suit the device) and 2^24");
}

void TttConfig::validate() const {
  demand(rank >= 1 && rank <= 65536, "[ttt] rank", rank, "between 1 and 65536");
  demand(lr >= 0, "[ttt] lr", lr, "0 or more");
  demand(weight_decay >= 0, "[ttt] weight_decay", weight_decay, "0 or more");
  demand(beta1 >= 0 && beta1 < 1, "[ttt] beta1", beta1, "at least 0 and below 1");
  demand(beta2 >= 0 && beta2 < 1, "[ttt] beta2", beta2, "at least 0 and below 1");
  demand(eps > 0, "[ttt] eps", eps, "above 0");
  demand(window >= 1 && window <= kMostRows, "[ttt] window", window, "between 1 and 2^24");
  // With no room for context, some windows of a pass would be scored whole and others not, and bits
  // depend on which kind there is.
  demand(chunk_size >= 1 && chunk_size < window, "[ttt] chunk_size", chunk_size,
         "at least 1 and below window");
  demand(batch_docs >= 0, "[ttt] batch_docs", batch_docs, "0 (as many as suit the device) or more");
  demand(grad_steps >= 1, "[ttt] grad_steps", grad_steps, "at least 1");
}

}  // namespace fairway
