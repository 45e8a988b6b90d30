// Bytes that claim to be UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace fairway {

// Offset of the first byte from `begin` on, where a sequence begins, that is not part of a
// well-formed UTF-8 sequence (Unicode 15, table 3-7: no overlong forms, no surrogates, nothing
// above U+10FFFF), or npos.
size_t find_invalid_utf8(std::string_view text, size_t begin = 0);

// The text with U+FFFD in the place of each maximal ill-formed sequence.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace fairway
