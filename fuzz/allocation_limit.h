// How much memory a reader takes, held against how much it may.
#pragma once

#include <cstddef>

namespace fairway {

// While it lives, ends the process with a message when a single allocation is larger than `one`
// bytes or when more than `all` bytes are allocated at once. One at a time.
class AllocationLimit {
 public:
  AllocationLimit(size_t one, size_t all);
  AllocationLimit(const AllocationLimit&) = delete;
  AllocationLimit& operator=(const AllocationLimit&) = delete;
  ~AllocationLimit();
};

}  // namespace fairway
