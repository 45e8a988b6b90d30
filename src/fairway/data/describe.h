// What a file of this folder holds, in a few lines of text for people (`fairway inspect`).
#pragma once

#include <filesystem>
#include <string>

namespace fairway {

// Throws Error if the file is not a valid shard.
std::string describe_shard(const std::filesystem::path& path);
// Throws Error if the file is not a tokenizer.
std::string describe_tokenizer(const std::filesystem::path& path);

}  // namespace fairway
