// A file in memory, read like one on disk.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>

#include "fairway/data/byte_source.h"

namespace fairway {

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::span<const std::byte> file) : file_(file) {}

  size_t read(std::span<char> out) override {
    const size_t n = std::min(out.size(), file_.size() - at_);
    if (n) std::memcpy(out.data(), file_.data() + at_, n);
    at_ += n;
    return n;
  }
  int64_t consumed() const override { return static_cast<int64_t>(at_); }

 private:
  std::span<const std::byte> file_;
  size_t at_ = 0;
};

}  // namespace fairway
