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

// What a file may make its decoder take: it names the window that its text refers back into. `xz
// -9` needs 65 MiB, `zstd --ultra -22` 128 MiB.
inline constexpr uint64_t kMaxWindowBytes = uint64_t{1} << 27;

// The text of `file`, read from it as it is needed and decompressed as the extension of `path`
// says; `path` names it in errors. `max_window`, a power of two from 2^10 on, is the largest
// window.
std::unique_ptr<ByteSource> decompress(std::unique_ptr<ByteSource> file,
                                       const std::filesystem::path& path,
                                       uint64_t max_window = kMaxWindowBytes);

}  // namespace fairway
