// One visitor per configuration struct. A config type defines
//
//   template <class Self, class F> static void visit_fields(Self& self, F&& f) {
//     f("num_layers", self.num_layers, "stored layers L");
//     ...
//   }
//
// and that one list drives TOML, `--section.key value`, `--help`, printing, hashing and file
// metadata. Field types: bool, int, int64_t, uint64_t, double, std::string,
// std::vector<std::string>, or an enum with a `names(E)` overload found by argument-dependent
// lookup.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "fairway/base/check.h"

namespace fairway {

// Names of an enum's values, in order: `inline auto names(Lane) { return std::array{"mean", …}; }`.
template <class E>
requires std::is_enum_v<E> std::string_view enum_name(E value) {
  return names(E{})[static_cast<size_t>(value)];
}

// The one of `candidates` with the smallest edit distance to `word` ("" if there is none near).
std::string closest(std::string_view word, std::span<const std::string> candidates);

// Text → value. `where` names the key in the error: "[train] steps" or "--train.steps".
bool parse_bool(std::string_view where, std::string_view text);
int64_t parse_int(std::string_view where, std::string_view text);
double parse_double(std::string_view where, std::string_view text);

template <class T>
void parse_field(std::string_view where, std::string_view text, T& out) {
  if constexpr (std::is_same_v<T, bool>) {
    out = parse_bool(where, text);
  } else if constexpr (std::is_enum_v<T>) {
    std::vector<std::string> options;
    for (auto name : names(T{})) options.emplace_back(name);
    for (size_t i = 0; i < options.size(); ++i)
      if (options[i] == text) {
        out = static_cast<T>(i);
        return;
      }
    usage_fail("{}: '{}' is not one of {}", where, text, fmt::join(options, ", "));
  } else if constexpr (std::is_integral_v<T>) {
    const int64_t value = parse_int(where, text);
    out = static_cast<T>(value);
    if (static_cast<int64_t>(out) != value || (std::is_unsigned_v<T> && value < 0))
      usage_fail("{}: {} is out of range", where, text);
  } else if constexpr (std::is_floating_point_v<T>) {
    out = static_cast<T>(parse_double(where, text));
  } else if constexpr (std::is_same_v<T, std::string>) {
    out = text;
  } else {  // std::vector<std::string>: comma separated
    out.clear();
    size_t begin = 0;
    while (begin <= text.size() && !text.empty()) {
      const size_t comma = std::min(text.find(',', begin), text.size());
      out.emplace_back(text.substr(begin, comma - begin));
      begin = comma + 1;
    }
  }
}

// Value → text that parse_field reads back to the same bits.
template <class T>
std::string format_field(const T& value) {
  if constexpr (std::is_same_v<T, bool>)
    return value ? "true" : "false";
  else if constexpr (std::is_enum_v<T>)
    return std::string(enum_name(value));
  else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>)
    return fmt::format("{}", value);
  else
    return fmt::format("{}", fmt::join(value, ","));
}

}  // namespace fairway
