// A whole file, read-only, through mmap.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace fairway {

class MappedFile {
 public:
  // Throws Error naming the file if it cannot be opened, is not a regular file, or cannot be
  // mapped.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fairway
