// What the targets share: a reader gives back something or throws Error, within its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "allocation_limit.h"
#include "fairway/base/check.h"

namespace fairway {

// Memory that a reader may take for a file of n bytes: one allocation at most one · n + fixed
// bytes, and all that are there at once all · n + fixed.
struct MemoryBound {
  size_t one, all, fixed;
};

// Calls read(bytes). Anything it throws but Error ends the process, and so does memory beyond
// `bound`.
template <class F>
void read_within(const uint8_t* data, size_t size, MemoryBound bound, F&& read) {
  const AllocationLimit limit(bound.one * size + bound.fixed, bound.all * size + bound.fixed);
  try {
    read(std::as_bytes(std::span(data, size)));
  } catch (const Error&) {
  }
}

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace fairway
