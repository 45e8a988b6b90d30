// Memory measured first, then taken once. A function that lays out its buffers takes an Arena; run
// against a dry arena it only counts (null pointers come back), run against a real one it hands out
// 256-byte aligned pieces of one allocation (what cuBLASLt's choice of a kernel looks at: it must
// not depend on where a piece lies). Each piece has a name, so that `--help`less questions like
// "where did the 2 GiB go" have an answer: `report()`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fairway/base/tensor.h"

namespace fairway {

// Page-aligned host memory, zeroed; backed by huge pages where the system grants them. Pages are
// taken when they are first touched.
class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(size_t bytes);
  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return data_.get_deleter().bytes; }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Unmap> data_;
};

class Arena {
 public:
  // A dry arena: counts, returns null.
  Arena() = default;
  // Hands out pieces of [base, base + capacity). The memory stays the caller's.
  Arena(std::byte* base, size_t capacity) : base_(base), capacity_(capacity) {}

  template <class T>
  Tensor<T> take(std::string_view name, Shape shape) {
    return {reinterpret_cast<T*>(take_bytes(name, static_cast<size_t>(shape.size()) * sizeof(T))),
            shape};
  }

  bool dry() const { return base_ == nullptr; }
  size_t used() const { return used_; }
  size_t peak() const { return peak_; }

  // Scratch: everything taken after `mark()` is given back by `release(mark)`.
  size_t mark() const { return used_; }
  void release(size_t mark) { used_ = mark; }

  // Bytes taken under each name by a dry arena, in the order of the names' first taking.
  const std::vector<std::pair<std::string, size_t>>& names() const { return names_; }
  // The same, one line per name, largest first.
  std::string report() const;

 private:
  std::byte* take_bytes(std::string_view name, size_t bytes);

  std::byte* base_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
  std::vector<std::pair<std::string, size_t>> names_;
};

}  // namespace fairway
