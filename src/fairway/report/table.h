// Tables for people: Markdown, aligned so that it reads well in a terminal too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fairway {

// 16000000 → "16,000,000"
std::string grouped(uint64_t n);

// The first row is the head; all have as many cells. The first column is aligned to the left, the
// others to the right.
std::string markdown_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace fairway
