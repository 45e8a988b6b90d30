#include "fairway/data/utf8.h"

namespace fairway {

namespace {

struct Sequence {
  size_t length;  // bytes that belong together, ≥ 1
  bool valid;
};

// The sequence at the beginning of a non-empty text.
Sequence first_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, false};
    const bool ok = i == 1 ? byte(i) >= low && byte(i) <= high : (byte(i) & 0xC0) == 0x80;
    if (!ok) return {i, false};
  }
  return {length, true};
}

}  // namespace

size_t find_invalid_utf8(std::string_view text, size_t begin) {
  for (size_t i = begin; i < text.size();) {
    const Sequence s = first_sequence(text.substr(i));
    if (!s.valid) return i;
    i += s.length;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Sequence s = first_sequence(text);
    out += s.valid ? text.substr(0, s.length) : std::string_view("\uFFFD");
    text.remove_prefix(s.length);
  }
  return out;
}

}  // namespace fairway
