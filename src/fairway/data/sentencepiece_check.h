// What the SentencePiece library takes on trust in a model file, checked before it sees the file.
#pragma once

#include <string>
#include <string_view>

namespace fairway {

// Throws Error naming `where` if `model` is not a protocol buffer or holds what would lead the
// library astray: more pieces than 65,536, pieces with a NUL, scores that are not finite, more
// nested user symbols than it has room for, or normalization rules that point outside of their
// table.
void check_sentencepiece_model(std::string_view model, const std::string& where);

}  // namespace fairway
