// A library to preload (LD_PRELOAD) that makes the disk fail: the n-th call that would change
// something below a directory fails instead.
//
//   FAULT_DIR     the directory, as an absolute path
//   FAULT_AT      n, from 1
//   FAULT_ERRNO   what it fails with; with ENOSPC every later call that takes space fails too
//   FAULT_LOG     a file outside of the directory: the call that failed is written there
//
// Or it makes the disk slow to take what it is given, which is no failure: with FAULT_PARTS set,
// every second write below the directory is interrupted by a signal, and the others take half of
// the bytes.
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>

namespace {

std::atomic<long> calls{0};

std::string variable(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

std::string path_of(int fd) {
  char path[PATH_MAX];
  const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : "";
}

// Whether this call is to fail; errno says how then.
bool fails(const char* call, const std::string& path, bool takes_space) {
  // Never destroyed: streams are flushed after the program's statics are gone.
  static const std::string &directory = *new std::string(variable("FAULT_DIR")),
                           &log = *new std::string(variable("FAULT_LOG"));
  static const long at = atol(variable("FAULT_AT").c_str());
  static const int error = atoi(variable("FAULT_ERRNO").c_str());
  if (directory.empty() || path.compare(0, directory.size(), directory) != 0) return false;
  const long number = ++calls;
  if (number != at && !(number > at && error == ENOSPC && takes_space)) return false;
  if (number == at) {
    const std::string line = std::string(call) + " " + path + "\n";
    const long fd = syscall(SYS_open, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    syscall(SYS_write, fd, line.data(), line.size());
    syscall(SYS_close, fd);
  }
  errno = error;
  return true;
}

// A write of n bytes that is to take only so many; 0 if it is to be interrupted.
size_t taken(const std::string& path, size_t n) {
  static const bool parts = !variable("FAULT_PARTS").empty();
  static const std::string& directory = *new std::string(variable("FAULT_DIR"));
  static std::atomic<long> writes{0};
  if (!parts || n < 2 || path.compare(0, directory.size(), directory) != 0) return n;
  errno = EINTR;
  return ++writes % 2 == 0 ? 0 : n / 2;
}

template <class F>
F real(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

int open_through(const char* name, const char* path, int flags, mode_t mode) {
  if ((flags & O_CREAT) != 0 && fails("open", path, true)) return -1;
  return real<int (*)(const char*, int, ...)>(name)(path, flags, mode);
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_through("open", path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_through("open64", path, flags, mode);
}

FILE* fopen(const char* path, const char* mode) {
  if (strpbrk(mode, "wa+") && fails("fopen", path, true)) return nullptr;
  return real<FILE* (*)(const char*, const char*)>("fopen")(path, mode);
}
int fflush(FILE* file) {
  if (file && fails("fflush", path_of(fileno(file)), true)) return EOF;
  return real<int (*)(FILE*)>("fflush")(file);
}

ssize_t write(int fd, const void* bytes, size_t n) {
  const std::string path = path_of(fd);
  if (fails("write", path, true)) return -1;
  if (n > 0 && (n = taken(path, n)) == 0) return -1;
  return real<ssize_t (*)(int, const void*, size_t)>("write")(fd, bytes, n);
}
ssize_t writev(int fd, const struct iovec* pieces, int n) {
  if (fails("writev", path_of(fd), true)) return -1;
  return real<ssize_t (*)(int, const struct iovec*, int)>("writev")(fd, pieces, n);
}
ssize_t pwrite(int fd, const void* bytes, size_t n, off_t at) {
  const std::string path = path_of(fd);
  if (fails("pwrite", path, true)) return -1;
  if (n > 0 && (n = taken(path, n)) == 0) return -1;
  return real<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite")(fd, bytes, n, at);
}
int ftruncate(int fd, off_t size) {
  if (fails("ftruncate", path_of(fd), true)) return -1;
  return real<int (*)(int, off_t)>("ftruncate")(fd, size);
}
int fsync(int fd) {
  if (fails("fsync", path_of(fd), false)) return -1;
  return real<int (*)(int)>("fsync")(fd);
}
int fdatasync(int fd) {
  if (fails("fdatasync", path_of(fd), false)) return -1;
  return real<int (*)(int)>("fdatasync")(fd);
}

int rename(const char* from, const char* to) {
  if (fails("rename", to, false)) return -1;
  return real<int (*)(const char*, const char*)>("rename")(from, to);
}
int mkdir(const char* path, mode_t mode) {
  if (fails("mkdir", path, true)) return -1;
  return real<int (*)(const char*, mode_t)>("mkdir")(path, mode);
}

}  // extern "C"
