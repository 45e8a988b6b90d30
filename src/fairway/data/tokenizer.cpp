#include "fairway/data/tokenizer.h"

#include <sentencepiece_processor.h>
#include <simdjson.h>
#include <xxhash.h>

#include <algorithm>

#include "fairway/base/check.h"
#include "fairway/data/sentencepiece_check.h"
#include "fairway/data/utf8.h"
#include "fairway/io/atomic_file.h"
#include "fairway/io/mapped_file.h"

namespace fairway {

namespace {

constexpr std::string_view kSpace = "\u2581";  // ▁: how SentencePiece writes a space
constexpr std::string_view kByteModel = "fairway byte tokenizer, version 1\n";
constexpr int kByteIds = 4;  // pad, bos, eos, unk, before the 256 bytes
constexpr size_t kMaxVocab = 65536;
constexpr size_t kLongestCachedWord = 64;

std::string with_spaces(std::string_view piece) {
  std::string out;
  while (true) {
    const size_t at = piece.find(kSpace);
    out += piece.substr(0, at);
    if (at == std::string_view::npos) return out;
    out += ' ';
    piece.remove_prefix(at + kSpace.size());
  }
}

}  // namespace

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::bytes() {
  Tokenizer t;
  for (const char* name : {"<pad>", "<s>", "</s>", "<unk>"}) {
    t.pieces_.emplace_back(name);
    t.kinds_.push_back(PieceKind::control);
    t.surfaces_.emplace_back();
  }
  for (int b = 0; b < 256; ++b) {
    t.pieces_.push_back(fmt::format("<0x{:02X}>", b));
    t.kinds_.push_back(PieceKind::byte);
    t.surfaces_.emplace_back(1, static_cast<char>(b));
    t.byte_tokens_.push_back(static_cast<uint16_t>(kByteIds + b));
  }
  t.hash_ = XXH3_64bits(kByteModel.data(), kByteModel.size());
  t.lossless_ = true;
  return t;
}

Tokenizer Tokenizer::from_bytes(std::string_view bytes, const std::string& where) {
  if (bytes == kByteModel) return Tokenizer::bytes();
  check_sentencepiece_model(bytes, where);
  Tokenizer t;
  t.processor_ = std::make_unique<sentencepiece::SentencePieceProcessor>();
  auto& sp = *t.processor_;
  const bool parsed =
      !bytes.empty() && sp.LoadFromSerializedProto({bytes.data(), bytes.size()}).ok();
  require(parsed, "{}: not a tokenizer; train one with 'fairway tokenizer train'", where);
  const int vocab = sp.GetPieceSize();
  require(vocab > 0 && static_cast<size_t>(vocab) <= kMaxVocab,
          "{}: a vocabulary of {} pieces; 1 … {} fit into 16-bit tokens", where, vocab, kMaxVocab);
  require(sp.bos_id() >= 0, "{}: the model has no bos piece, which starts each document", where);
  t.bos_ = static_cast<uint16_t>(sp.bos_id());
  t.hash_ = XXH3_64bits(bytes.data(), bytes.size());
  for (int i = 0; i < vocab; ++i) {
    const std::string& piece = sp.IdToPiece(i);
    t.pieces_.push_back(piece);
    if (sp.IsByte(i)) {
      unsigned value = 256;
      if (piece.size() == 6) std::sscanf(piece.c_str(), "<0x%2X>", &value);
      require(value < 256, "{}: piece {} claims to be a byte but is '{}'", where, i, piece);
      t.kinds_.push_back(PieceKind::byte);
      t.surfaces_.emplace_back(1, static_cast<char>(value));
      t.byte_tokens_.resize(256);
      t.byte_tokens_[value] = static_cast<uint16_t>(i);
    } else if (sp.IsControl(i) || sp.IsUnknown(i) || sp.IsUnused(i)) {
      t.kinds_.push_back(PieceKind::control);
      t.surfaces_.emplace_back();
    } else {
      t.kinds_.push_back(PieceKind::text);
      t.surfaces_.push_back(with_spaces(piece));
    }
  }
  // Found out by trying: the rules are compiled into the model. This text has what the named ones
  // change: spaces at the ends and in runs, line ends, tabs, wide letters, ligatures, capitals,
  // control characters.
  const std::string probe = "  A \t\r\n\n  b\u00A0\u3000\uFF21\uFB01e\u0301\u212B\x01\u200B  ";
  t.lossless_ = !t.byte_tokens_.empty();
  if (t.lossless_) {
    std::vector<uint16_t> tokens;
    t.encode_valid(probe, tokens, nullptr);
    t.lossless_ = t.decode(tokens) == probe;
  }
  // A merge never reaches across a space then, and without normalization nothing else looks across
  // it.
  t.splits_at_spaces_ =
      t.lossless_ && std::all_of(t.pieces_.begin(), t.pieces_.end(), [](std::string_view piece) {
        return piece.find(kSpace, 1) == piece.npos && piece.find(' ') == piece.npos;
      });
  return t;
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  if (path == "bytes") return bytes();
  const MappedFile file(path);
  const auto data = file.bytes();
  return from_bytes({reinterpret_cast<const char*>(data.data()), data.size()}, path.string());
}

void Tokenizer::encode_valid(std::string_view text, std::vector<uint16_t>& out,
                             WordCache* cache) const {
  const auto encode = [&](std::string_view piece, std::vector<uint16_t>& to) {
    std::vector<int> ids;
    const auto status = processor_->Encode({piece.data(), piece.size()}, &ids);
    require(status.ok(), "SentencePiece cannot encode the text: {}", status.error_message());
    // An unused piece of one letter: there is nothing smaller to write it as.
    const bool lost = std::any_of(ids.begin(), ids.end(), [&](int id) {
      return kinds_[static_cast<size_t>(id)] == PieceKind::control;
    });
    if (lost && lossless_) {
      for (const char c : piece) to.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
      return;
    }
    to.insert(to.end(), ids.begin(), ids.end());
  };
  if (text.empty()) return;
  if (!cache || !splits_at_spaces_) return encode(text, out);
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' ', 1));
    text.remove_prefix(word.size());
    if (word.size() > kLongestCachedWord) {
      encode(word, out);
      continue;
    }
    auto known = cache->words.find(word);
    if (known == cache->words.end()) {
      known = cache->words.emplace(word, std::vector<uint16_t>()).first;
      encode(word, known->second);
    }
    out.insert(out.end(), known->second.begin(), known->second.end());
  }
}

void Tokenizer::encode(std::string_view text, std::vector<uint16_t>& out, WordCache* cache) const {
  const auto as_bytes = [&](std::string_view piece) {
    for (const char c : piece) out.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
  };
  if (is_byte_tokenizer()) return as_bytes(text);
  if (!lossless_) return encode_valid(text, out, cache);
  // Two things SentencePiece would not give back: bytes that are not UTF-8 (it puts U+FFFD there)
  // and a `▁` of the text (which decodes to a space). Both go through the byte pieces.
  const size_t size = text.size();
  const auto next = [&](size_t found) { return std::min(found, size); };
  const bool valid = simdjson::validate_utf8(text.data(), size);
  size_t begin = 0;
  size_t space = next(text.find(kSpace));
  size_t invalid = valid ? size : next(find_invalid_utf8(text));
  while (true) {
    const size_t end = std::min(space, invalid);
    encode_valid(text.substr(begin, end - begin), out, cache);
    if (end == size) return;
    begin = end + (end == space ? kSpace.size() : 1);
    as_bytes(text.substr(end, begin - end));
    if (end == space)
      space = next(text.find(kSpace, begin));
    else
      invalid = next(find_invalid_utf8(text, begin));
  }
}

std::vector<uint16_t> Tokenizer::encode(std::string_view text) const {
  std::vector<uint16_t> out;
  encode(text, out);
  return out;
}

std::string Tokenizer::decode(std::span<const uint16_t> tokens) const {
  std::string out;
  for (const uint16_t t : tokens) {
    require(t < surfaces_.size(), "token {} is outside the tokenizer's vocabulary of {}", t,
            surfaces_.size());
    out += surfaces_[t];
  }
  return out;
}

void save_byte_tokenizer(const std::filesystem::path& path) {
  write_file(path, kByteModel);
}

}  // namespace fairway
