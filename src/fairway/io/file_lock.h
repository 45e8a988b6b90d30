// Locks that end with their process, however it ends (flock).
#pragma once

#include <filesystem>
#include <string>

namespace fairway {

// Opens `path` for reading and writing, made if need be, and locks it. Returns the descriptor,
// which holds the lock until it is closed, or −errno: −EWOULDBLOCK if someone else holds the lock.
// The file may be renamed or deleted while it is locked. Where the file system knows no locks, the
// descriptor comes without one.
int open_locked(const std::filesystem::path& path);

// A directory that only one process works in: DIR/.lock is locked, and gone again afterwards.
class DirectoryLock {
 public:
  // Makes the directory if it does not exist. Throws Error if another process holds it, or if
  // nothing can be written there. `hint` ends the message of the former.
  explicit DirectoryLock(const std::filesystem::path& directory, const std::string& hint = "");
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  std::filesystem::path file_;
  int fd_;
};

}  // namespace fairway
