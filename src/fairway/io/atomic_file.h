// Files that are complete or absent: written under a temporary name in the same directory, flushed
// to disk, renamed over the target, the directory flushed. An AtomicFile destroyed before
// `commit()` leaves nothing behind, and an older file of that name untouched.
//
// The temporary name is TARGET.tmp. What a killed process left there is overwritten by the next one
// that writes the target, so that such files do not pile up.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "fairway/base/arena.h"

namespace fairway {

// Whether the operating system keeps what is written in memory as well, for those who read it next.
// Without, writing takes a tenth of the processor's time or less, where the file system can do it.
enum class Cached { yes, no };

class AtomicFile {
 public:
  // Throws Error if the directory does not exist or cannot be written, or while another process
  // writes the target.
  explicit AtomicFile(std::filesystem::path target, Cached cached = Cached::yes);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  // Appends. Throws Error (disk full, I/O error) naming the target.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  template <class T>
  void write_value(const T& value) {
    write(std::as_bytes(std::span(&value, 1)));
  }

  uint64_t written() const { return written_; }

  // Overwrites bytes already written, for headers that are known last.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);

  // fsync, close, rename, fsync of the directory.
  void commit();

 private:
  void flush();
  void discard();

  std::filesystem::path target_, temporary_;
  int fd_ = -1;
  bool direct_;  // past the cache
  uint64_t written_ = 0;
  HostBuffer buffer_;
  size_t buffered_ = 0;
};

// Throws Error if a file of that name could not be put there: asked before long work. Writes
// nothing.
void check_can_write(const std::filesystem::path& target);

// The whole of a small text file written at once, atomically.
void write_file(const std::filesystem::path& target, std::string_view text);

// The whole of a small text file.
std::string read_file(const std::filesystem::path& path);

}  // namespace fairway
