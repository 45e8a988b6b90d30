#include "fairway/io/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "fairway/base/check.h"
#include "fairway/io/write_error.h"

namespace fairway {

int open_locked(const std::filesystem::path& path) {
  for (;;) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return -errno;
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(fd);
      return -EWOULDBLOCK;
    }
    // Between the two calls the one who held it may have renamed or deleted it.
    struct stat held {
    }, named{};
    if (::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino && held.st_dev == named.st_dev)
      return fd;
    ::close(fd);
  }
}

DirectoryLock::DirectoryLock(const std::filesystem::path& directory, const std::string& hint)
    : file_(directory / ".lock") {
  const bool made = make_directories(directory);
  fd_ = open_locked(file_);
  require(fd_ != -EWOULDBLOCK,
          "{}: another process is at work in this directory; wait for it to end, or choose another "
          "one{}",
          directory.string(), hint);
  if (fd_ >= 0) return;
  if (made) ::rmdir(directory.c_str());
  write_failed(directory, "write here", -fd_);
}

DirectoryLock::~DirectoryLock() {
  ::unlink(file_.c_str());
  ::close(fd_);
}

}  // namespace fairway
