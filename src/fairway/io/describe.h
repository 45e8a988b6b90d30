// What a safetensors file holds, in text for people (`fairway inspect`).
#pragma once

#include <filesystem>
#include <string>

namespace fairway {

// Throws Error if the file is not a valid safetensors file.
std::string describe_safetensors(const std::filesystem::path& path);

}  // namespace fairway
