#include "fairway/io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "fairway/base/check.h"
#include "fairway/io/file_lock.h"
#include "fairway/io/mapped_file.h"
#include "fairway/io/write_error.h"

namespace fairway {

namespace {

// A multiple of what any disk wants to be written in one piece past the cache.
constexpr size_t kBufferBytes = size_t{4} << 20;

// Writes past the operating system's cache from here on, or through it; false where there is no
// such choice.
bool set_direct(int fd, bool direct) {
  return ::fcntl(fd, F_SETFL, direct ? O_DIRECT : 0) == 0;
}

void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& target) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    // A piece that may not go past the cache, such as what a nearly full disk left of a larger one.
    if (n < 0 && errno == EINVAL && (::fcntl(fd, F_GETFL) & O_DIRECT) != 0 && set_direct(fd, false))
      continue;
    if (n <= 0) write_failed(target, "write", n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

std::filesystem::path directory_of(const std::filesystem::path& target) {
  return target.has_parent_path() ? target.parent_path() : ".";
}

// A rename is on disk once its directory is.
void sync_directory(const std::filesystem::path& target) {
  const auto directory = directory_of(target);
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // a directory that may be written to, but not read
  const bool failed = ::fsync(fd) != 0 && errno != EINVAL;  // EINVAL: there is nothing to flush
  const int error = errno;
  ::close(fd);
  if (failed) write_failed(target, "flush its directory to disk", error);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path target, Cached cached)
    : target_(std::move(target)), direct_(cached == Cached::no), buffer_(kBufferBytes) {
  temporary_ = target_;
  temporary_ += ".tmp";
  fd_ = open_locked(temporary_);
  require(fd_ != -EWOULDBLOCK, "{}: another process is writing this file; wait for it to end",
          target_.string());
  if (fd_ < 0) write_failed(target_, "create", -fd_);
  if (::ftruncate(fd_, 0) != 0) {
    const int error = errno;
    discard();
    write_failed(target_, "create", error);
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) discard();
}

// Deleted before the lock goes: afterwards the name may be another process's.
void AtomicFile::discard() {
  ::unlink(temporary_.c_str());
  ::close(fd_);
  fd_ = -1;
}

void AtomicFile::flush() {
  // Only whole buffers, one behind the other, can go past the cache.
  if (direct_ && buffered_ < kBufferBytes) {
    set_direct(fd_, false);
    direct_ = false;
  }
  write_all(fd_, {buffer_.data(), buffered_}, target_);
  buffered_ = 0;
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  check(fd_ >= 0, "AtomicFile: write after commit");
  if (direct_ && written_ == 0) direct_ = set_direct(fd_, true);
  written_ += bytes.size();
  if (!direct_ && bytes.size() >= kBufferBytes) {  // saves the copy
    flush();
    write_all(fd_, bytes, target_);
    return;
  }
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), kBufferBytes - buffered_);
    std::memcpy(buffer_.data() + buffered_, bytes.data(), n);
    buffered_ += n;
    bytes = bytes.subspan(n);
    if (buffered_ == kBufferBytes) flush();
  }
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  check(offset + bytes.size() <= written_, "AtomicFile: write_at past the end");
  flush();
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) write_failed(target_, "write", n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void AtomicFile::commit() {
  flush();
  if (::fsync(fd_) != 0) write_failed(target_, "flush to disk", errno);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) write_failed(target_, "finish", errno);
  ::close(fd_);
  fd_ = -1;
  sync_directory(target_);
}

void check_can_write(const std::filesystem::path& target) {
  std::error_code ignored;
  if (::access(directory_of(target).c_str(), W_OK | X_OK) != 0)
    write_failed(target, "create", errno);
  if (std::filesystem::is_directory(target, ignored)) write_failed(target, "create", EISDIR);
}

void write_file(const std::filesystem::path& target, std::string_view text) {
  AtomicFile file(target);
  file.write(text);
  file.commit();
}

std::string read_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace fairway
