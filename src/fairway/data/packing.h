// Segments of a packed buffer: attention never crosses their boundaries.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fairway {

// SPEC §2: a segment starts at position 0, at every bos in `inputs` [n], and every `max_doc_len`
// tokens inside a document (0: never). Returns segment starts, then n, then n again up to a
// multiple of `bucket`.
std::vector<int32_t> make_cu_seqlens(std::span<const int32_t> inputs, int32_t bos,
                                     int64_t max_doc_len, int64_t bucket = 64);

}  // namespace fairway
