// Text ↔ tokens: a SentencePiece model, or the byte tokenizer (pad 0, bos 1, eos 2, unk 3, then the
// 256 byte values). A loaded tokenizer is immutable; all of its functions may be called from any
// thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace fairway {

enum class PieceKind { text, byte, control };  // control: also unknown and unused pieces

// The tokens of words already met. It grows with the text: give it up now and then.
struct WordCache {
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>{}(word); }
  };
  std::unordered_map<std::string, std::vector<uint16_t>, Hash, std::equal_to<>> words;
};

class Tokenizer {
 public:
  // `path`: a SentencePiece model, a file written by save_byte_tokenizer, or the word "bytes" for
  // the byte tokenizer. Throws Error if it is none of these, has no bos, or has more than 65,536
  // pieces.
  static Tokenizer load(const std::filesystem::path& path);
  // The same from the bytes of the file; `where` names them in errors.
  static Tokenizer from_bytes(std::string_view bytes, const std::string& where);
  static Tokenizer bytes();

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  int vocab_size() const { return static_cast<int>(pieces_.size()); }
  uint16_t bos() const { return bos_; }
  // Identity of the tokenizer: XXH3-64 of the file's bytes.
  uint64_t hash() const { return hash_; }
  bool is_byte_tokenizer() const { return processor_ == nullptr; }
  // Whether decode(encode(x)) == x for every byte string x (identity normalization, byte fallback).
  bool lossless() const { return lossless_; }

  // The tokens of a text; no bos is added. A lossless tokenizer takes any bytes; others see invalid
  // UTF-8 as U+FFFD.
  std::vector<uint16_t> encode(std::string_view text) const;
  // Appends to `out`. A cache, of this tokenizer and one thread, makes much text much faster; the
  // tokens are the same without.
  void encode(std::string_view text, std::vector<uint16_t>& out, WordCache* cache = nullptr) const;

  // The bytes that the tokens stand for; control tokens stand for none. Throws Error on a token ≥
  // V.
  std::string decode(std::span<const uint16_t> tokens) const;

  // The piece as the model writes it (`▁` for a space), and what sort it is.
  const std::string& piece(int token) const { return pieces_[static_cast<size_t>(token)]; }
  PieceKind kind(int token) const { return kinds_[static_cast<size_t>(token)]; }

 private:
  Tokenizer();
  void encode_valid(std::string_view text, std::vector<uint16_t>& out, WordCache* cache) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;  // null: byte tokenizer
  std::vector<std::string> pieces_;                                   // [V]
  std::vector<PieceKind> kinds_;                                      // [V]
  std::vector<std::string> surfaces_;  // [V] the bytes each token stands for
  std::vector<uint16_t> byte_tokens_;  // [256], empty without byte fallback
  uint16_t bos_ = 1;
  uint64_t hash_ = 0;
  bool lossless_ = false;
  bool splits_at_spaces_ =
      false;  // every space begins a piece, so that words are encoded one by one
};

// Writes the file by which the byte tokenizer travels where a path to a tokenizer is expected.
void save_byte_tokenizer(const std::filesystem::path& path);

}  // namespace fairway
