#include "fairway/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "fairway/base/fields.h"
#include "fairway/data/describe.h"
#include "fairway/data/sentencepiece_check.h"
#include "fairway/data/stream.h"
#include "fairway/data/token_bytes.h"
#include "fairway/data/tokenizer_train.h"
#include "fairway/data/utf8.h"
#include "fairway/io/safetensors.h"
#include "sample_text.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// One .jsonl of sample documents, and tokenizers trained on it, shared by the tests of this file.
class Trained : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    std::string lines;
    for (const auto& text : sample_documents(60))
      lines += nlohmann::json{{"text", text}}.dump() + "\n";
    dir_->write("text.jsonl", lines);
    for (const Normalization n : {Normalization::identity, Normalization::nmt_nfkc})
      train_tokenizer(training(n), file(n));
  }
  static void TearDownTestSuite() { delete dir_; }

  static TokenizerTraining training(Normalization normalization) {
    TokenizerTraining t;
    t.inputs = {(*dir_ / "text.jsonl").string()};
    t.vocab_size = 400;
    t.normalization = normalization;
    return t;
  }
  static std::filesystem::path file(Normalization n) {
    return *dir_ / fmt::format("{}.model", enum_name(n));
  }
  static Tokenizer identity() { return Tokenizer::load(file(Normalization::identity)); }
  static Tokenizer nmt_nfkc() { return Tokenizer::load(file(Normalization::nmt_nfkc)); }

  static inline TempDir* dir_ = nullptr;
};

TEST_F(Trained, HasTheOptionsOfTheSpec) {
  for (const Tokenizer& t : {identity(), nmt_nfkc()}) {
    EXPECT_EQ(t.vocab_size(), 400);
    EXPECT_EQ(t.bos(), 1);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(t.kind(i), PieceKind::control);
    EXPECT_THAT((std::vector{t.piece(0), t.piece(1), t.piece(2), t.piece(3)}),
                ElementsAre("<pad>", "<s>", "</s>", "<unk>"));
    for (int b = 0; b < 256; ++b) EXPECT_EQ(t.kind(4 + b), PieceKind::byte);
    // Digits are split; no dummy prefix is added.
    EXPECT_EQ(t.encode("1989").size(), 4u);
    EXPECT_EQ(t.decode(t.encode("the")), "the");
    for (int i = 260; i < 400; ++i)
      EXPECT_LE(t.piece(i).find_first_of("0123456789") + 1, 1u) << t.piece(i);
  }
  EXPECT_TRUE(identity().lossless());
  EXPECT_FALSE(nmt_nfkc().lossless());
  EXPECT_EQ(nmt_nfkc().decode(nmt_nfkc().encode("  a \n\n  \uFF22 ")), "a B");
}

TEST_F(Trained, TrainingIsDeterministic) {
  train_tokenizer(training(Normalization::identity), *dir_ / "again.model");
  EXPECT_EQ(read_file(*dir_ / "again.model"), read_file(file(Normalization::identity)));
  EXPECT_EQ(Tokenizer::load(*dir_ / "again.model").hash(), identity().hash());
  EXPECT_NE(nmt_nfkc().hash(), identity().hash());
}

TEST_F(Trained, TextTokensAreThoseOfSentencePiece) {
  for (const Normalization n : {Normalization::identity, Normalization::nmt_nfkc}) {
    sentencepiece::SentencePieceProcessor sp;
    ASSERT_TRUE(sp.Load(file(n).string()).ok());
    const Tokenizer t = Tokenizer::load(file(n));
    WordCache cache;
    for (const std::string& text : sample_documents(20)) {
      const auto expected = sp.EncodeAsIds(text);
      const auto ids = t.encode(text);
      EXPECT_EQ(std::vector<int>(ids.begin(), ids.end()), expected);
      std::vector<uint16_t> cached{5};
      t.encode(text, cached, &cache);
      EXPECT_EQ(std::vector<int>(cached.begin() + 1, cached.end()), expected);
      EXPECT_EQ(t.decode(ids), sp.DecodeIds(expected));
    }
  }
}

// Strings of what is difficult: white space of all kinds, ▁, control tokens spelled out, NUL, bytes
// that are not UTF-8, and anything else.
std::string hard_text() {
  static const std::vector<std::string> kHard{" ",
                                              "  ",
                                              "\t",
                                              "\n",
                                              "\r\n",
                                              "\u2581",
                                              "\u2581\u2581 ",
                                              "\u00A0",
                                              "\u3000",
                                              "\u200B",
                                              "<s>",
                                              "</s>",
                                              "<pad>",
                                              "<unk>",
                                              "<0x41>",
                                              std::string(1, '\0'),
                                              "\x80",
                                              "\xE2\x96",
                                              "\xFF",
                                              "\xED\xA0\x80",
                                              "\uFFFD",
                                              "the way",
                                              "1989",
                                              "\U0001F600",
                                              "e\u0301",
                                              "\uFB01",
                                              "\uFF21",
                                              "\u2585",
                                              "\u2047",
                                              "café"};
  const auto parts = *rc::gen::container<std::vector<std::string>>(
      rc::gen::oneOf(rc::gen::elementOf(kHard), rc::gen::arbitrary<std::string>()));
  std::string text;
  for (const auto& part : parts) text += part;
  return text;
}

TEST_F(Trained, IdentityGivesBackEveryByte) {
  const Tokenizer t = identity(), b = Tokenizer::bytes();
  WordCache cache;
  EXPECT_TRUE(rc::check("decode(encode(x)) == x", [&] {
    const std::string text = hard_text();
    const auto tokens = t.encode(text);
    std::vector<uint16_t> cached;
    t.encode(text, cached, &cache);
    RC_ASSERT(cached == tokens);
    RC_ASSERT(t.decode(tokens) == text);
    RC_ASSERT(b.decode(b.encode(text)) == text);
    // No text makes a control token: bos stays the mark of a document's start.
    for (const uint16_t token : tokens) RC_ASSERT(t.kind(token) != PieceKind::control);
  }));
}

TEST_F(Trained, AnyTextEncodesUnderNmtNfkcToo) {
  const Tokenizer t = nmt_nfkc();
  EXPECT_TRUE(rc::check("encode never makes a control token", [&] {
    for (const uint16_t token : t.encode(hard_text()))
      RC_ASSERT(t.kind(token) != PieceKind::control);
  }));
}

TEST_F(Trained, BytesOfTokensAddUpToTheText) {
  const Tokenizer t = identity(), b = Tokenizer::bytes();
  for (const Tokenizer* tokenizer : {&t, &b}) {
    const TokenBytes table(*tokenizer);
    EXPECT_TRUE(rc::check("bytes add up", [&] {
      const std::string text = hard_text();
      std::vector<uint16_t> tokens = tokenizer->encode(text);
      // A space at the very start of a document stands behind a boundary token and is not counted.
      tokens.insert(tokens.begin(), tokenizer->bos());
      int64_t bytes = 0;
      for (size_t i = 1; i < tokens.size(); ++i) bytes += table.bytes(tokens[i], tokens[i - 1]);
      const bool space = tokens.size() > 1 && table.leading_space[tokens[1]];
      RC_ASSERT(bytes + space == static_cast<int64_t>(text.size()));
    }));
    EXPECT_EQ(table.bytes(tokenizer->bos(), 5), 0);
  }
}

TEST_F(Trained, EncodesFromManyThreads) {
  const Tokenizer t = identity();
  const auto documents = sample_documents(40);
  std::vector<std::vector<uint16_t>> expected(documents.size()), got(documents.size());
  for (size_t i = 0; i < documents.size(); ++i) expected[i] = t.encode(documents[i]);
  {
    std::vector<std::jthread> threads;
    for (size_t first = 0; first < 4; ++first)
      threads.emplace_back([&, first] {
        for (size_t i = first; i < documents.size(); i += 4) got[i] = t.encode(documents[i]);
      });
  }
  EXPECT_EQ(got, expected);
}

TEST_F(Trained, TooLittleTextIsAClearError) {
  const auto message_for = [&](const std::string& lines, int vocab) {
    TokenizerTraining t;
    t.inputs = {dir_->write("little.jsonl", lines).string()};
    t.vocab_size = vocab;
    auto message = error_of([&] { train_tokenizer(t, *dir_ / "little.model"); });
    EXPECT_FALSE(std::filesystem::exists(*dir_ / "little.model"));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  };
  const std::string few = R"({"text": "hello world"})";
  EXPECT_THAT(message_for(few, 1000), AllOf(HasSubstr("little.jsonl"), HasSubstr("<= 286")));
  EXPECT_THAT(message_for(few, 262), HasSubstr("Increase vocab_size"));
  EXPECT_THAT(message_for("", 1000), HasSubstr("no text"));
  EXPECT_THAT(message_for(R"({"text": ""})", 1000), HasSubstr("no text"));
  EXPECT_NE(message_for(R"({"text": "   \n "})", 1000), "");
  EXPECT_THAT(message_for("{\"text\": \"ab\"}\n{\"txt\": 1}", 1000),
              HasSubstr("little.jsonl:2: no field 'text'"));
  EXPECT_THAT(message_for(few, 100), HasSubstr("--vocab-size 100"));
  EXPECT_THAT(message_for(few, 65537), HasSubstr("--vocab-size 65537"));
}

TEST_F(Trained, OddTextTrains) {
  std::string text = "the way of small models ";
  for (int i = 0; i < 7; ++i) text += text;
  TokenizerTraining t;
  t.inputs = {
      dir_->write("odd.txt", text + std::string(1, '\0') + "\u2581\u2585\t\t<s> " + text).string()};
  t.vocab_size = 300;
  train_tokenizer(t, *dir_ / "odd.model");
  EXPECT_TRUE(Tokenizer::load(*dir_ / "odd.model").lossless());
}

TEST_F(Trained, MaxBytesBoundsTheText) {
  TokenizerTraining t = training(Normalization::identity);
  t.max_bytes = 1;  // the first document only
  t.vocab_size = 300;
  train_tokenizer(t, *dir_ / "first.model");
  TokenizerTraining first = t;
  first.max_bytes = int64_t{1} << 30;
  first.inputs = {dir_->write("first.txt", sample_document(0)).string()};
  train_tokenizer(first, *dir_ / "first_only.model");
  EXPECT_EQ(read_file(*dir_ / "first.model"), read_file(*dir_ / "first_only.model"));
}

TEST_F(Trained, AModelWithoutBosIsRefused) {
  dir_->write("some.txt", "the way of small models\nthe fair way\n");
  const std::string arguments = fmt::format(
      "--input={} --model_prefix={} --model_type=bpe --vocab_size=20 --bos_id=-1 --minloglevel=2",
      (*dir_ / "some.txt").string(), (*dir_ / "no_bos").string());
  ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train(arguments.c_str()).ok());
  EXPECT_THAT(error_of([&] { Tokenizer::load(*dir_ / "no_bos.model"); }),
              HasSubstr("no_bos.model: the model has no bos"));
}

TEST_F(Trained, HostileModelFilesAreErrors) {
  const std::string good = read_file(file(Normalization::identity));
  for (size_t n = 0; n < good.size(); n += 1 + n / 7)
    try {  // a protobuf cut between two pieces is a smaller model: fine, as long as nothing crashes
      Tokenizer::from_bytes(good.substr(0, n), "cut.model");
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("cut.model"));
    }
  const Philox random(3, 0);
  for (uint64_t i = 0; i < 300; ++i) {
    std::string bad = good;
    bad[random.below(2 * i, bad.size())] = static_cast<char>(random.below(2 * i + 1, 256));
    try {
      const Tokenizer t = Tokenizer::from_bytes(bad, "flipped.model");
      t.decode(t.encode("the fair way \u2581 \xFF"));
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()), "");
    }
  }
  EXPECT_THAT(error_of([&] { Tokenizer::from_bytes("", "empty.model"); }),
              HasSubstr("empty.model"));
  EXPECT_THAT(error_of([&] { Tokenizer::from_bytes("hello\n", "text.model"); }),
              HasSubstr("text.model"));
  EXPECT_THAT(error_of([&] { Tokenizer::load(*dir_ / "absent.model"); }),
              HasSubstr("absent.model"));
}

// Protocol buffers by hand; field numbers are those of sentencepiece_model.proto.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string bytes_field(uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string piece_field(const std::string& text, int type, float score = 0) {
  std::string value(4, '\0');
  std::memcpy(value.data(), &score, 4);
  return bytes_field(1, bytes_field(1, text) + varint(2 << 3 | 5) + value + varint(3 << 3) +
                            varint(static_cast<uint64_t>(type)));
}
enum PieceType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};
const std::string kReserved = piece_field("<unk>", kUnknown) + piece_field("<s>", kControl);

// The model of these pieces with a table of normalization rules.
std::string model_with_rules(const std::vector<uint32_t>& trie, const std::string& replacements) {
  const auto size = static_cast<uint32_t>(trie.size() * 4);
  std::string table(4 + size, '\0');
  std::memcpy(table.data(), &size, 4);
  if (size > 0) std::memcpy(table.data() + 4, trie.data(), size);
  return kReserved + piece_field("a", kNormal) +
         bytes_field(3, bytes_field(2, table + replacements));
}

std::string check_error(const std::string& model) {
  return error_of([&] { check_sentencepiece_model(model, "x.model"); });
}

TEST(SentencePieceCheck, RefusesPiecesThatLeadTheLibraryAstray) {
  EXPECT_EQ(check_error(kReserved + piece_field("a", kNormal)), "");
  EXPECT_THAT(check_error(kReserved + piece_field(std::string("a\0b", 3), kNormal)),
              HasSubstr("x.model: not a tokenizer: a piece holds a NUL"));
  for (const float score : {std::numeric_limits<float>::quiet_NaN(), -INFINITY})
    EXPECT_THAT(check_error(kReserved + piece_field("a", kNormal, score)), HasSubstr("no number"));
  std::string many = kReserved;
  for (int i = 0; i < 65534; ++i) many += piece_field(fmt::format("{}", i), kNormal);
  EXPECT_EQ(check_error(many), "");
  EXPECT_THAT(check_error(many + piece_field("x", kNormal)), HasSubstr("more than 65536 pieces"));

  std::string nested = kReserved;
  for (size_t n = 1; n <= 64; ++n) nested += piece_field(std::string(n, 'a'), kUserDefined);
  nested += piece_field("b", kUserDefined);
  EXPECT_EQ(check_error(nested), "");
  EXPECT_THAT(check_error(nested + piece_field(std::string(65, 'a'), kUserDefined)),
              HasSubstr("begin one another"));
  EXPECT_EQ(check_error(nested + piece_field(std::string(65, 'a'), kNormal)), "");
}

TEST(SentencePieceCheck, RefusesWhatIsNoProtocolBuffer) {
  const std::string good =
      kReserved + piece_field("a", kNormal) + bytes_field(2, varint(3 << 3) + "\2");
  EXPECT_EQ(check_error(good), "");
  size_t whole = 0;  // cut between two fields it is a smaller model
  for (size_t n = 0; n < good.size(); ++n) whole += check_error(good.substr(0, n)).empty();
  EXPECT_EQ(whole, 4u);
  EXPECT_NE(check_error(good + "\x0B"), "");                   // a group
  EXPECT_NE(check_error(good + std::string(1, '\0')), "");     // field 0
  EXPECT_NE(check_error(good + std::string(11, '\xFF')), "");  // a number without end
  EXPECT_THAT(check_error(std::string((1 << 25) + 1, ' ')), HasSubstr("larger"));
  std::string samples;
  for (int i = 0; i < 4 * 65536; ++i) samples += bytes_field(1, "");
  EXPECT_THAT(check_error(good + bytes_field(4, samples)), HasSubstr("too many parts"));
}

// Units of a double array: `to` is where the children of the unit at `at` begin, `label` how it is
// reached, and `ends` whether a rule ends here.
uint32_t unit(uint32_t at, uint32_t to, unsigned char label = 0, bool ends = false) {
  return (at ^ to) << 10 | (ends ? 0x100u : 0u) | label;
}

TEST(SentencePieceCheck, RefusesRulesThatLeadOutsideTheirTable) {
  // a → "A": the root at 0, its children from 256 on, those of "a" from 512 on.
  std::vector<uint32_t> trie(768);
  trie[0] = unit(0, 256);
  trie[256 ^ 'a'] = unit(256 ^ 'a', 512, 'a', true);
  trie[512] = 0x80000000;
  const std::string replacement("A\0", 2);
  EXPECT_EQ(check_error(model_with_rules(trie, replacement)), "");
  const Tokenizer t = Tokenizer::from_bytes(model_with_rules(trie, std::string("b\0", 2)), "x");
  EXPECT_EQ(t.encode("b"), t.encode("a"));

  auto bad = trie;
  bad[256 ^ 'a'] = unit(256 ^ 'a', 768, 'a', true);
  EXPECT_THAT(check_error(model_with_rules(bad, replacement)), HasSubstr("lead outside"));
  bad = trie;
  bad[256 ^ 'a'] = unit(256 ^ 'a', 768, 'a');
  EXPECT_THAT(check_error(model_with_rules(bad, replacement)), HasSubstr("lead outside"));
  bad = trie;
  bad[512] = 0x80000002;
  EXPECT_THAT(check_error(model_with_rules(bad, replacement)),
              HasSubstr("write text from outside"));
  EXPECT_THAT(check_error(model_with_rules(trie, std::string(257, 'A') + '\0')),
              HasSubstr("write"));
  for (const char* not_ended : {"", "A"})
    EXPECT_THAT(check_error(model_with_rules(trie, not_ended)), HasSubstr("damaged"));
  EXPECT_THAT(check_error(model_with_rules({}, replacement)), HasSubstr("damaged"));

  bad = trie;
  bad[0] = unit(0, 256, 'b');
  bad[256 ^ 'a'] = unit(256 ^ 'a', 'b', 'a');
  EXPECT_THAT(check_error(model_with_rules(bad, replacement)), HasSubstr("lead back"));

  // "aaa…": a path that leads back to itself, and one of 33 rules.
  bad = trie;
  bad[256 ^ 'a'] = unit(256 ^ 'a', 256, 'a', true);
  bad[256] = 0x80000000;
  EXPECT_THAT(check_error(model_with_rules(bad, replacement)), HasSubstr("begin one another"));
  for (const uint32_t rules : {32u, 33u}) {
    std::vector<uint32_t> chain(256 * (rules + 2));
    chain[0] = unit(0, 256);
    for (uint32_t i = 1; i <= rules; ++i) {
      chain[(256 * i) ^ 'a'] = unit((256 * i) ^ 'a', 256 * (i + 1), 'a', true);
      chain[256 * (i + 1)] = 0x80000000;
    }
    EXPECT_EQ(check_error(model_with_rules(chain, replacement)).empty(), rules == 32) << rules;
  }
}

TEST(Tokenizer, UnusedPiecesOfOneLetterLoseNothing) {
  std::string model = kReserved;
  for (int b = 0; b < 256; ++b) model += piece_field(fmt::format("<0x{:02X}>", b), kByte);
  model += piece_field("\u2581", kNormal) + piece_field("a", kNormal) + piece_field("0", kUnused);
  const auto flag = [](uint64_t number, char value) { return varint(number << 3) + value; };
  model += bytes_field(2, flag(3, 2) + flag(35, 1));                              // BPE, bytes
  model += bytes_field(3, bytes_field(1, "identity") + flag(3, 0) + flag(4, 0));  // as it is
  const Tokenizer t = Tokenizer::from_bytes(model, "x.model");
  EXPECT_TRUE(t.lossless());
  for (const char* text : {"0", "a0 a", "ab 0"}) EXPECT_EQ(t.decode(t.encode(text)), text);
}

TEST(ByteTokenizer, Is256BytesAndFourIds) {
  const Tokenizer t = Tokenizer::bytes();
  EXPECT_EQ(t.vocab_size(), 260);
  EXPECT_THAT(t.encode(std::string_view("A\0\xFF", 3)), ElementsAre(69, 4, 259));
  EXPECT_EQ(t.decode(std::vector<uint16_t>{1, 69, 2, 70, 0, 3}), "AB");
  EXPECT_TRUE(t.lossless());
  EXPECT_THAT(error_of([&] { t.decode(std::vector<uint16_t>{260}); }), HasSubstr("260"));
  const TempDir dir;
  TokenizerTraining training;
  training.vocab_size = 260;
  train_tokenizer(training, dir / "bytes.model");
  const Tokenizer loaded = Tokenizer::load(dir / "bytes.model");
  EXPECT_TRUE(loaded.is_byte_tokenizer());
  EXPECT_EQ(loaded.hash(), t.hash());
  EXPECT_EQ(Tokenizer::load("bytes").hash(), t.hash());
  EXPECT_THAT(describe_tokenizer(dir / "bytes.model"), HasSubstr("byte tokenizer"));
}

TEST(TokenBytes, GoldenTable) {
  // `bytes.*` is a made-up table, on which the golden scores are computed; what is checked here is
  // how it is read: a token's space counts unless the token before it is a boundary.
  const SafetensorsFile golden(FAIRWAY_TEST_DATA "/golden/a.safetensors");
  TokenBytes table;
  table.base = golden.read<int32_t>("bytes.base");
  table.leading_space = golden.read<uint8_t>("bytes.leading_space");
  table.boundary = golden.read<uint8_t>("bytes.boundary");
  const auto chunked = golden.entry("eval.sliding");  // float64: nats/token, bpb, over all targets
  double score[2];
  std::memcpy(score, chunked.bytes.data(), sizeof score);
  const auto tokens = golden.read<int32_t>("tokens");
  int64_t bytes = 0;
  for (size_t i = 1; i < tokens.size(); ++i) bytes += table.bytes(tokens[i], tokens[i - 1]);
  const double bpb = score[0] * static_cast<double>(tokens.size() - 1) / std::log(2.0) /
                     static_cast<double>(bytes);
  EXPECT_NEAR(bpb, score[1], 1e-12 * bpb);
}

TEST(TokenBytes, NeedsThePieceForTheSpace) {
  const TempDir dir;
  TokenizerTraining t;
  t.vocab_size = 262;
  t.inputs = {dir.write("x.txt", "abababababab").string()};
  ASSERT_EQ(error_of([&] { train_tokenizer(t, dir / "x.model"); }), "");
  const Tokenizer tokenizer = Tokenizer::load(dir / "x.model");
  EXPECT_THAT(error_of([&] { TokenBytes{tokenizer}; }), HasSubstr("'▁'"));
  EXPECT_THAT(describe_tokenizer(dir / "x.model"), HasSubstr("'▁'"));
}

TEST(Utf8, FindsTheFirstBadByte) {
  EXPECT_EQ(find_invalid_utf8("aé€😀\U0010FFFF"), std::string_view::npos);
  for (const char* bad :
       {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5", "\xFF", "\xE2\x82", "\xC3", "\xF0\x9F\x98"}) {
    EXPECT_EQ(find_invalid_utf8("é" + std::string(bad)), 2u) << bad;
    EXPECT_EQ(find_invalid_utf8("é" + std::string(bad) + "a"), 2u) << bad;
  }
  EXPECT_EQ(replace_invalid_utf8("a\xE2\x82"
                                 "b\xFF"
                                 "c€"),
            "a\uFFFD"
            "b\uFFFD"
            "c€");
  EXPECT_EQ(find_invalid_utf8("\xFF"
                              "a\xFF",
                              1),
            2u);
}

// The reference shards of the corpus, where the checkout has it: the same tokenizer and the same
// documents must give the same bytes.
TEST(Corpus, ReferenceShardIsReproduced) {
  const char* named = std::getenv("FAIRWAY_CORPUS");
  const std::filesystem::path corpus =
      named ? named : std::filesystem::path(FAIRWAY_TEST_DATA) / "../../shared/corpus";
  if (!std::filesystem::exists(corpus / "tiny/sp1024.model"))
    GTEST_SKIP() << "no corpus at " << corpus << " (set FAIRWAY_CORPUS)";
  const Tokenizer t = Tokenizer::load(corpus / "tiny/sp1024.model");
  EXPECT_TRUE(t.lossless());
  const TokenStream reference(find_shards((corpus / "tiny/tiny_val_000000.bin").string()), 1024);
  std::vector<int32_t> expected(static_cast<size_t>(reference.size())), got;
  reference.copy(0, reference.size(), expected.data());
  WordCache cache;
  TextReader reader({corpus / "val.jsonl.xz"});
  for (TextBlock block; got.size() < expected.size() && reader.next(block);)
    for (const std::string& text : parse_documents(block, {})) {
      if (got.size() == expected.size()) break;
      std::vector<uint16_t> tokens{t.bos()};
      t.encode(text, tokens, &cache);
      got.insert(got.end(), tokens.begin(), tokens.end());
    }
  EXPECT_TRUE(got == expected);
  const Tokenizer nfkc = Tokenizer::load(corpus / "sp8192.model");
  EXPECT_FALSE(nfkc.lossless());
  EXPECT_EQ(nfkc.vocab_size(), 8192);
  EXPECT_NO_THROW(TokenBytes{nfkc});
}

}  // namespace
}  // namespace fairway
