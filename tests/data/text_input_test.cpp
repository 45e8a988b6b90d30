#include "fairway/data/text_input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <rapidcheck.h>
#include <zlib.h>
#include <zstd.h>

#include <map>

#include "fairway/base/rng.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string gz(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, text.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string zst(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string xz(const std::string& text) {
  std::string out(lzma_stream_buffer_bound(text.size()), '\0');
  size_t n = 0;
  lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, nullptr,
                          reinterpret_cast<const uint8_t*>(text.data()), text.size(),
                          reinterpret_cast<uint8_t*>(out.data()), &n, out.size());
  out.resize(n);
  return out;
}

const std::map<std::string, std::string (*)(const std::string&)> kCompressors{
    {".gz", gz}, {".zst", zst}, {".xz", xz}};

std::vector<std::string> read_all(const std::vector<std::filesystem::path>& files,
                                  size_t block = 1 << 20, const TextOptions& options = {}) {
  TextReader reader(files, block);
  std::vector<std::string> documents;
  for (TextBlock b; reader.next(b);)
    for (auto& d : parse_documents(b, options)) documents.push_back(std::move(d));
  EXPECT_EQ(reader.bytes_read(), reader.bytes_total());
  return documents;
}

TEST(TextInput, ReadsEveryKindOfFileInOrder) {
  const TempDir dir;
  const std::string lines =
      "{\"text\": \"one\", \"n\": 1}\r\n\n{\"n\": 2, \"text\": \"tw\\u00f6\\n\"}\n  "
      "\n{\"text\":\"\"}";
  std::vector<std::filesystem::path> files{
      dir.write("a.jsonl", lines), dir.write("b.txt", "plain\ntext\n"), dir.write("c.txt", "")};
  std::vector<std::string> expected{"one", "twö\n", "", "plain\ntext\n", ""};
  for (const auto& [extension, compress] : kCompressors) {
    files.push_back(dir.write("d.jsonl" + extension, compress(lines)));
    files.push_back(dir.write("e.txt" + extension, compress("two ") + compress("parts")));
    for (const char* text : {"one", "twö\n", "", "two parts"}) expected.emplace_back(text);
  }
  for (const size_t block : {size_t{1}, size_t{7}, size_t{64}, size_t{1} << 20})
    EXPECT_EQ(read_all(files, block), expected) << block;
}

TEST(TextInput, LargeCompressedFilesComeOutWhole) {
  std::string text;
  const Philox random(5, 0);
  for (uint64_t i = 0; i < 300'000; ++i) text += static_cast<char>('a' + random.below(i, 8));
  text += std::string(3'000'000, 'x');  // much output from little input, at the very end
  const TempDir dir;
  for (const auto& [extension, compress] : kCompressors)
    for (const size_t block : {size_t{1000}, size_t{65536}, size_t{1} << 20})
      EXPECT_TRUE(read_all({dir.write("big.txt" + extension, compress(text))}, block) ==
                  std::vector{text})
          << extension << " " << block;
}

TEST(TextInput, DamagedCompressedFilesAreNamed) {
  const TempDir dir;
  std::string text;
  for (int i = 0; i < 200; ++i) text += fmt::format("line {} of the text\n", i * i);
  for (const auto& [extension, compress] : kCompressors) {
    const std::string good = compress(text), name = "bad.txt" + extension;
    for (size_t n = 0; n < good.size(); ++n) {
      const auto path = dir.write(name, good.substr(0, n));
      EXPECT_THAT(error_of([&] { read_all({path}); }), HasSubstr(name)) << n;
    }
    for (size_t at = 0; at < good.size(); at += 3) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ 0x10);
      const auto path = dir.write(name, bad);
      try {  // some bytes (gzip's time stamp, zstd without checksum) carry nothing
        read_all({path});
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), HasSubstr(name));
      }
    }
    EXPECT_THAT(error_of([&] { read_all({dir.write(name, text)}); }), HasSubstr(name));
    EXPECT_THAT(
        error_of([&] { read_all({dir.write(name, good + "trailing garbage, not a frame")}); }),
        HasSubstr(name));
  }
}

TEST(TextInput, ZstdFramesMayFollowEachOtherButNotOldOnes) {
  const TempDir dir;
  const std::string skipped("\x50\x2A\x4D\x18\x01\x00\x00\x00x", 9);
  EXPECT_THAT(read_all({dir.write("a.txt.zst", zst("one ") + skipped + zst("two"))}),
              ElementsAre("one two"));
  const std::string legacy("\x27\xB5\x2F\xFD\x04\x77\x04\x02", 8);  // version 0.7
  for (const std::string& file : {legacy, zst("one ") + legacy})
    EXPECT_THAT(error_of([&] { read_all({dir.write("a.txt.zst", file)}); }),
                HasSubstr("not a zstd file"));
}

// A small file may not make its decoder take much memory: it names the window it wants.
TEST(TextInput, WindowsAreBounded) {
  const TempDir dir;
  const std::string text(size_t{3} << 16, 'x');
  for (const auto& [extension, compress] : kCompressors) {
    const auto path = dir.write("a.txt" + extension, compress(text));
    const auto read = [&](uint64_t max_window) {
      const auto file = dir.write("raw", compress(text));
      const auto source = decompress(open_byte_source(file), path, max_window);
      std::string out, piece(1000, '\0');  // zstd needs no window where all of the text fits
      for (size_t n = 1; n > 0; out.append(piece, 0, n)) n = source->read(piece);
      return out;
    };
    EXPECT_EQ(read(kMaxWindowBytes), text);
    if (extension == ".gz") continue;  // always 32 KiB
    EXPECT_THAT(error_of([&] { read(1 << 10); }), HasSubstr("a.txt" + extension));
  }
}

TEST(TextInput, ErrorsNameFileAndLine) {
  const TempDir dir;
  const std::string good = "{\"text\": \"fine\"}\n";
  const std::vector<std::pair<std::string, std::string>> cases{
      {"{\"text\": \"x\"", "not valid JSON"},
      {"{\"text\": \"x\"} {}", "not valid JSON"},
      {"[1, 2]", "not a JSON object"},
      {"\"text\"", "not a JSON object"},
      {"{\"txt\": \"x\"}", "no field 'text'"},
      {"{\"text\": 5}", "field 'text' is not a string"},
      {"{\"text\": null}", "field 'text' is not a string"},
      {"{\"text\": \"a\xFF\"}", "byte 12 of the line is not valid UTF-8"},
      {"{\"text\": \"\\ud800\"}", "--invalid-utf8 replace"},
      {"{\"text\": \"a\tb\"}", "control character"},
  };
  for (const auto& [line, what] : cases)
    for (const size_t block : {size_t{5}, size_t{1} << 20}) {
      const auto path = dir.write("lines.jsonl", good + "\n" + good + line + "\n" + good);
      EXPECT_THAT(error_of([&] { read_all({path}, block); }),
                  AllOf(HasSubstr("lines.jsonl:4: "), HasSubstr(what)))
          << line;
    }
  EXPECT_THAT(error_of([&] { read_all({dir.write("bad.txt", "ab\nc\xC3(")}); }),
              HasSubstr("bad.txt:2: byte 5 of the file is not valid UTF-8"));
}

TEST(TextInput, InvalidUtf8CanBeReplaced) {
  const TempDir dir;
  TextOptions replace;
  replace.invalid_utf8 = InvalidUtf8::replace;
  EXPECT_THAT(read_all({dir.write("a.txt", "a\xC3(\xE2\x82")}, 1 << 20, replace),
              ElementsAre("a\uFFFD(\uFFFD"));
  const auto path = dir.write(
      "a.jsonl",
      "{\"text\": \"a\xFF\"}\n"
      "{\"text\": \"\\ud800x \\ud83d\\ude00 \\udc00 \\\\ud800 \\uD83D\\uD83D\\uDE00\"}\n");
  EXPECT_THAT(read_all({path}, 1 << 20, replace),
              ElementsAre("a\uFFFD", "\uFFFDx 😀 \uFFFD \\ud800 \uFFFD😀"));
  EXPECT_THAT(
      error_of([&] { read_all({dir.write("b.jsonl", "{\"text\": \"\\q\"}")}, 9, replace); }),
      HasSubstr("b.jsonl:1: not valid JSON"));
}

TEST(TextInput, FieldsHaveNames) {
  const TempDir dir;
  TextOptions options;
  options.field = "content";
  EXPECT_THAT(
      read_all({dir.write("a.jsonl", "{\"text\": 1, \"content\": \"yes\"}")}, 1 << 20, options),
      ElementsAre("yes"));
}

TEST(TextInput, AByteOrderMarkBeforeTheFirstLineIsIgnored) {
  const TempDir dir;
  EXPECT_THAT(read_all({dir.write("a.jsonl", "\uFEFF{\"text\": \"yes\"}")}), ElementsAre("yes"));
}

TEST(TextInput, FindsFilesDirectoriesAndGlobs) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "d/e");
  for (const char* name :
       {"d/2.txt", "d/1.jsonl.gz", "d/e/0.rst.txt", "d/readme.md", "z.txt", "y.txt"})
    dir.write(name, "");
  const auto found = find_text_files(std::vector<std::string>{
      (dir / "z.txt").string(), (dir / "d").string(), (dir / "?.txt").string()});
  EXPECT_THAT(found, ElementsAre(dir / "z.txt", dir / "d/1.jsonl.gz", dir / "d/2.txt",
                                 dir / "d/e/0.rst.txt", dir / "y.txt", dir / "z.txt"));
  const auto find = [&](const std::string& input) {
    return error_of([&] { find_text_files(std::vector{input}); });
  };
  EXPECT_THAT(find((dir / "absent.txt").string()), HasSubstr("absent.txt: no such file"));
  EXPECT_THAT(find((dir / "d/readme.md").string()), HasSubstr("unknown kind"));
  std::filesystem::create_directory(dir / "empty");
  EXPECT_THAT(find((dir / "empty").string()), HasSubstr("no .txt or .jsonl"));
}

TEST(TextInput, ADocumentBeyondTheLimitIsAnError) {
  const TempDir dir;
  const std::string huge(size_t{70} << 20, 'x');
  EXPECT_THAT(error_of([&] { read_all({dir.write("a.txt.zst", zst(huge))}); }),
              AllOf(HasSubstr("a.txt.zst:1: "), HasSubstr("64 MiB")));
  EXPECT_THAT(error_of([&] {
                read_all({dir.write("a.jsonl.zst",
                                    zst("{\"text\": \"\"}\n\n{\"text\": \"" + huge + "\"}"))});
              }),
              AllOf(HasSubstr("a.jsonl.zst:3: "), HasSubstr("64 MiB")));
}

}  // namespace
}  // namespace fairway
