// What an artifact holds, for people.
#pragma once

#include <filesystem>
#include <string>

namespace fairway {

// Throws Error as read_artifact does.
std::string describe_artifact(const std::filesystem::path& path);

}  // namespace fairway
