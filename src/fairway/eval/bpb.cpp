#include "fairway/eval/bpb.h"

#include <numbers>

namespace fairway {

Score score(std::span<const float> nll, const TokenStream& stream, const TokenBytes* bytes) {
  double nats = 0;
  for (const float x : nll) nats += x;
  Score s;
  s.tokens = static_cast<int64_t>(nll.size());
  s.nats_per_token = nats / static_cast<double>(s.tokens);
  if (!bytes) return s;
  int64_t total = 0;
  for (int64_t t = 0; t < s.tokens; ++t) total += bytes->bytes(stream[t + 1], stream[t]);
  s.bytes = total;
  if (total > 0) s.bpb = nats / static_cast<double>(total) / std::numbers::ln2;
  return s;
}

}  // namespace fairway
