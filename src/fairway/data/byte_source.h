// The bytes of a file, decompressed as its name says, read from beginning to end.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace fairway {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills `out` as far as there are bytes; a short count is the end.
  // Throws Error naming the file if it is damaged, truncated or unreadable.
  virtual size_t read(std::span<char> out) = 0;
  // Bytes of the file itself read so far.
  virtual int64_t consumed() const = 0;
};

// By extension: .xz, .zst, .gz, anything else as it is.
std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path);

}  // namespace fairway
