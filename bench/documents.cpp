#include "documents.h"

#include <algorithm>
#include <cmath>

#include "fairway/base/rng.h"
#include "fairway/data/packing.h"

namespace fairway::bench {

namespace {
constexpr int32_t kBos = 1;
// ln(1596/475) / z(0.9).
constexpr double kMedian = 475, kSigma = 0.9455;
}  // namespace

PackedBatch random_documents(int64_t tokens, int vocab, int64_t max_doc_len, uint64_t seed) {
  const Philox ids(seed, 0), lengths(seed, 1);
  std::vector<int32_t> stream;
  for (uint64_t document = 0; std::ssize(stream) <= tokens; ++document) {
    const double length = kMedian * std::exp(kSigma * lengths.normal(document));
    stream.push_back(kBos);
    for (int64_t i = 1; i < std::max<int64_t>(2, std::lround(length)); ++i)
      stream.push_back(static_cast<int32_t>(
          2 + ids.below(stream.size(), static_cast<uint64_t>(std::max(1, vocab - 2)))));
  }
  PackedBatch batch;
  batch.inputs.assign(stream.begin(), stream.begin() + tokens);
  batch.targets.assign(stream.begin() + 1, stream.begin() + tokens + 1);
  batch.cu_seqlens = make_cu_seqlens(batch.inputs, kBos, max_doc_len);
  return batch;
}

double attention_pairs(const PackedBatch& batch) {
  double pairs = 0;
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
    const double n = batch.cu_seqlens[s + 1] - batch.cu_seqlens[s];
    pairs += n * (n + 1) / 2;
  }
  return pairs;
}

}  // namespace fairway::bench
