#include "fairway/data/packing.h"

#include "fairway/base/check.h"

namespace fairway {

std::vector<int32_t> make_cu_seqlens(std::span<const int32_t> inputs, int32_t bos,
                                     int64_t max_doc_len, int64_t bucket) {
  check(bucket > 0, "make_cu_seqlens: bucket");
  const auto n = static_cast<int64_t>(inputs.size());
  std::vector<int32_t> cu;
  for (int64_t i = 0; i < n; ++i) {
    const bool start = cu.empty() || inputs[static_cast<size_t>(i)] == bos ||
                       (max_doc_len > 0 && i - cu.back() == max_doc_len);
    if (start) cu.push_back(static_cast<int32_t>(i));
  }
  cu.push_back(static_cast<int32_t>(n));
  const auto b = static_cast<size_t>(bucket);
  cu.resize((cu.size() + b - 1) / b * b, static_cast<int32_t>(n));
  return cu;
}

}  // namespace fairway
