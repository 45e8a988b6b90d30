#include "fairway/report/table.h"

#include <algorithm>

#include "fairway/base/check.h"

namespace fairway {

std::string grouped(uint64_t n) {
  std::string digits = fmt::format("{}", n);
  for (size_t i = digits.size(); i > 3;) digits.insert(i -= 3, ",");
  return digits;
}

std::string markdown_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width(rows.front().size());
  for (const auto& row : rows)
    for (size_t c = 0; c < width.size(); ++c) width[c] = std::max(width[c], row[c].size());

  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < width.size(); ++c)
      out += c == 0 ? fmt::format("| {:<{}} |", rows[r][c], width[c])
                    : fmt::format(" {:>{}} |", rows[r][c], width[c]);
    out += '\n';
    if (r != 0) continue;
    for (size_t c = 0; c < width.size(); ++c)
      out += c == 0 ? fmt::format("|{:-<{}}|", ":", width[c] + 2)
                    : fmt::format("{:->{}}|", ":", width[c] + 2);
    out += '\n';
  }
  return out;
}

}  // namespace fairway
