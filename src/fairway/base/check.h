// Errors. Everything that can go wrong with input ends in one of two exceptions; main() turns them
// into one line on stderr and an exit status. Programming errors are asserted with `check`.
#pragma once

// fmt 9 takes nvcc for a compiler without constexpr, and then contradicts itself in C++20.
#if defined(__NVCC__) && !defined(FMT_USE_CONSTEXPR)
#define FMT_USE_CONSTEXPR 1
#endif
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fairway {

// Work that could not be done: bad file, disk full, non-finite loss. Exit status 1.
// The message is one line: what, where (file, offset, key), and what to do about it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A wrong command line or recipe. Exit status 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void usage_fail(fmt::format_string<Args...> format, Args&&... args) {
  throw UsageError(fmt::format(format, std::forward<Args>(args)...));
}

// `require(ok, "{}: wrong magic {}", path, magic)`: the check on input that throws Error.
template <class... Args>
void require(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    fail(format, std::forward<Args>(args)...);
}

// A broken precondition inside the program: a bug here, never the user's fault.
inline void check(bool ok, const char* what) {
  if (!ok) [[unlikely]]
    throw std::logic_error(what);
}

}  // namespace fairway
