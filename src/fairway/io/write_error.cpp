#include "fairway/io/write_error.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#include "fairway/base/check.h"

namespace fairway {

namespace fs = std::filesystem;

namespace {

const char* remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return "free some space or choose another place";
    case EIO:
      return "the disk fails; choose a place on another one";
    case ENOENT:
      return "make its directory first";
    case EACCES:
    case EPERM:
    case EROFS:
      return "choose a place that may be written to";
    default:
      return "choose another place";
  }
}

}  // namespace

void write_failed(const fs::path& path, const char* what, int error) {
  fail("{}: cannot {}: {}; {}", path.string(), what, std::strerror(error), remedy(error));
}

bool make_directories(const fs::path& path) {
  std::error_code error;
  const bool made = fs::create_directories(path, error);
  if (error) write_failed(path, "make the directory", error.value());
  return made;
}

void delete_all(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) write_failed(path, "delete", error.value());
}

}  // namespace fairway
