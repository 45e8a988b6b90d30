#include "fairway/data/sentencepiece_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fairway/base/check.h"

namespace fairway {

namespace {

constexpr size_t kMaxModelBytes = size_t{1} << 25;
constexpr size_t kMaxPieces = 65536;
// The library makes an object of every field that is text or a message.
constexpr size_t kMaxFields = 4 * kMaxPieces;
// Rules that begin one another, and bytes that one rule may write. The library has room for 32
// rules; Unicode's longest replacement takes 33 bytes.
constexpr int kMaxNestedRules = 32;
constexpr size_t kMaxReplacement = 256, kMaxRuleBytes = size_t{1} << 21;
constexpr size_t kMaxNestedSymbols = 64;

// Field numbers of sentencepiece_model.proto.
enum ModelField { kPieces = 1, kTrainer = 2, kNormalizer = 3, kSamples = 4, kDenormalizer = 5 };
enum PieceField { kText = 1, kScore = 2, kType = 3 };
constexpr uint32_t kRules = 2;  // of a normalizer
constexpr int32_t kUserDefined = 4;

enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;
  uint64_t value = 0;      // of numbers
  std::string_view bytes;  // of text and messages
};

class Checker {
 public:
  explicit Checker(const std::string& where) : where_(where) {}

  void model(std::string_view bytes) {
    if (bytes.size() > kMaxModelBytes) refuse("larger than any tokenizer");
    size_t pieces = 0;
    for (Field f; next(bytes, f);) {
      if (f.wire != kBytes) continue;
      if (f.number == kPieces) {
        if (++pieces > kMaxPieces) refuse("more than 65536 pieces do not fit into 16-bit tokens");
        piece(f.bytes);
      } else if (f.number == kNormalizer || f.number == kDenormalizer) {
        normalizer(f.bytes);
      } else if (f.number == kTrainer || f.number == kSamples) {  // read over, but counted
        for (Field inner; next(f.bytes, inner);) {
        }
      }
    }
    user_symbols();
  }

 private:
  [[noreturn]] void refuse(const char* what) const {
    fail("{}: not a tokenizer: {}; train one with 'fairway tokenizer train'", where_, what);
  }

  uint64_t varint(std::string_view& rest) const {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest.empty()) refuse("it is cut short");
      const auto byte = static_cast<unsigned char>(rest.front());
      rest.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse("it is damaged");
  }

  // Takes the next field off the front of a message; false at its end.
  bool next(std::string_view& rest, Field& f) {
    if (rest.empty()) return false;
    const uint64_t tag = varint(rest);
    if (tag >> 32 || tag >> 3 == 0) refuse("it is damaged");
    f = {static_cast<uint32_t>(tag >> 3), static_cast<uint32_t>(tag & 7), 0, {}};
    if (f.wire == kVarint) {
      f.value = varint(rest);
      return true;
    }
    if (f.wire != kBytes && f.wire != kFixed32 && f.wire != kFixed64) refuse("it is damaged");
    const uint64_t size = f.wire == kBytes ? varint(rest) : f.wire == kFixed32 ? 4 : 8;
    if (size > rest.size()) refuse("it is cut short");
    f.bytes = rest.substr(0, size);
    rest.remove_prefix(size);
    if (f.wire == kBytes && ++fields_ > kMaxFields) refuse("it has too many parts");
    return true;
  }

  void piece(std::string_view message) {
    std::vector<std::string_view> texts;  // one, but a later one would take its place
    bool user_defined = false;
    for (Field f; next(message, f);) {
      if (f.number == kText && f.wire == kBytes) {
        if (f.bytes.find('\0') != f.bytes.npos) refuse("a piece holds a NUL");
        texts.push_back(f.bytes);
      } else if (f.number == kScore && f.wire == kFixed32) {
        uint32_t bits = 0;
        std::memcpy(&bits, f.bytes.data(), sizeof bits);
        if (!std::isfinite(std::bit_cast<float>(bits))) refuse("the score of a piece is no number");
      } else if (f.number == kType && f.wire == kVarint) {
        user_defined |= static_cast<int32_t>(f.value) == kUserDefined;
      }
    }
    if (user_defined) user_defined_.insert(user_defined_.end(), texts.begin(), texts.end());
  }

  // The library looks up all symbols that a text begins with, and has room for 64.
  void user_symbols() {
    std::sort(user_defined_.begin(), user_defined_.end());
    std::vector<std::string_view> nested;
    for (const std::string_view symbol : user_defined_) {
      while (!nested.empty() && !symbol.starts_with(nested.back())) nested.pop_back();
      nested.push_back(symbol);
      if (nested.size() > kMaxNestedSymbols) refuse("too many user symbols begin one another");
    }
  }

  void normalizer(std::string_view message) {
    for (Field f; next(message, f);)
      if (f.number == kRules && f.wire == kBytes && !f.bytes.empty()) rules(f.bytes);
  }

  // A table of rules: the size of a trie, the trie (a double array of 32-bit units, as in the Darts
  // library), and the replacements, each ending in NUL. The library walks the trie by what the text
  // says and never looks at the table's size.
  void rules(std::string_view table) {
    uint32_t trie_bytes = 0;
    if (table.size() <= sizeof trie_bytes || table.size() > kMaxRuleBytes)
      refuse("its normalization rules are damaged");
    std::memcpy(&trie_bytes, table.data(), sizeof trie_bytes);
    table.remove_prefix(sizeof trie_bytes);
    if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes >= table.size() ||
        table.back() != '\0')
      refuse("its normalization rules are damaged");
    std::vector<uint32_t> units(trie_bytes / 4);
    std::memcpy(units.data(), table.data(), trie_bytes);
    const std::string_view replacements = table.substr(trie_bytes);

    // The most rules that end on the way to each unit, and one; 0: not reached yet.
    std::vector<uint8_t> rules_before(units.size());
    std::vector<uint32_t> to_do{0};
    rules_before[0] = 1;
    while (!to_do.empty()) {
      const uint32_t at = to_do.back(), unit = units[at];
      to_do.pop_back();
      const uint32_t base = at ^ ((unit >> 10) << ((unit & 0x200) >> 6));
      if ((base | 0xFF) >= units.size()) refuse("its normalization rules lead outside their table");
      int rules = rules_before[at];
      if (at != 0 && (unit & 0x100)) {
        const std::string_view replacement =
            replacements.substr(std::min<size_t>(units[base] & 0x7FFFFFFF, replacements.size()));
        if (replacement.empty() || replacement.find('\0') > kMaxReplacement)
          refuse("its normalization rules write text from outside their table");
        if (++rules > kMaxNestedRules + 1) refuse("too many normalization rules begin one another");
      }
      for (uint32_t label = 0; label < 256; ++label) {
        const uint32_t child = base ^ label;
        if ((units[child] & 0x800000FF) != label) continue;
        if (child == 0) refuse("its normalization rules lead back to their beginning");
        if (rules_before[child] >= rules) continue;
        rules_before[child] = static_cast<uint8_t>(rules);
        to_do.push_back(child);
      }
    }
  }

  const std::string& where_;
  size_t fields_ = 0;
  std::vector<std::string_view> user_defined_;
};

}  // namespace

void check_sentencepiece_model(std::string_view model, const std::string& where) {
  Checker(where).model(model);
}

}  // namespace fairway
