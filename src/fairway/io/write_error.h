// What is said when the disk does not take something: one wording for every place that writes.
#pragma once

#include <filesystem>

namespace fairway {

// Throws Error: "PATH: cannot WHAT: reason; remedy", for a system call that failed with `error`.
[[noreturn]] void write_failed(const std::filesystem::path& path, const char* what, int error);

// Makes a directory and those above it; false if it exists already. Throws Error.
bool make_directories(const std::filesystem::path& path);

// Deletes a file, or a directory with everything in it; what does not exist is no error. Throws
// Error if it stays.
void delete_all(const std::filesystem::path& path);

}  // namespace fairway
