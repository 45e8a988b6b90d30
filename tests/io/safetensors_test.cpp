#include "fairway/io/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "fairway/base/check.h"
#include "fairway/base/fp16.h"
#include "fairway/io/atomic_file.h"

namespace fairway {
namespace {

std::string temporary(const std::string& name) {
  return testing::TempDir() + fmt::format("/fairway-{}-{}", ::getpid(), name);
}

// A file of that header and `data` bytes of data; its error when opened, or "".
std::string open_error(const std::string& header, size_t data = 16, int64_t claimed_size = -1) {
  const std::string path = temporary("hostile.safetensors");
  std::string bytes(8, '\0');
  const uint64_t size = claimed_size < 0 ? header.size() : static_cast<uint64_t>(claimed_size);
  std::memcpy(bytes.data(), &size, 8);
  write_file(path, bytes + header + std::string(data, 'x'));
  std::string message;
  try {
    const SafetensorsFile file(path);
  } catch (const Error& e) {
    message = e.what();
    EXPECT_EQ(message.rfind(path + ": ", 0), 0u) << message;
    message = message.substr(path.size() + 2);
  }
  std::filesystem::remove(path);
  return message;
}

std::string entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

TEST(Safetensors, RoundTrip) {
  const std::vector<float> a{1.5f, -2.0f, 3.25f, 0.0f, 1e-30f, 6.0f};
  const std::vector<int8_t> b{-128, 0, 127};
  const std::vector<uint16_t> c{float_to_fp16(0.5f), float_to_fp16(-3.0f)};
  const std::vector<SafetensorsTensor> tensors{
      {"z", Dtype::f32, {2, 3}, std::as_bytes(std::span(a))},
      {"b", Dtype::i8, {3}, std::as_bytes(std::span(b))},
      {"half", Dtype::f16, {2}, std::as_bytes(std::span(c))},
      {"empty", Dtype::f32, {0, 7}, {}}};
  const std::string path = temporary("round.safetensors");
  write_safetensors(path, tensors, {{"config", "{\"x\": 1}"}});

  const SafetensorsFile file(path);
  EXPECT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.metadata().at("config"), "{\"x\": 1}");
  EXPECT_EQ(file.read<float>("z"), a);
  EXPECT_EQ(file.read<int8_t>("b"), b);
  EXPECT_TRUE(file.read<float>("empty").empty());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file.entry("b").bytes.data()) % 8, 0u)
      << "the data begins aligned";
  std::vector<float> widened(2);
  file.read_into("half", {widened.data(), {2}});
  EXPECT_EQ(widened, (std::vector<float>{0.5f, -3.0f}));

  std::vector<float> out(6);
  EXPECT_THROW(file.read_into("z", {out.data(), {3, 2}}), Error);
  EXPECT_THROW(file.read_into("none", {out.data(), {3, 2}}), Error);
  EXPECT_THROW(file.read<float>("b"), Error);
  EXPECT_THROW(file.read_into("b", {out.data(), {3}}), Error);
  std::filesystem::remove(path);
}

TEST(Safetensors, AcceptsAValidHandWrittenHeader) {
  EXPECT_EQ(open_error("{" + entry("a", "[4]", "[0,16]") + "}"), "");
  EXPECT_EQ(
      open_error("{" + entry("a", "[]", "[4,8]") + "," + entry("b", "[1]", "[0,4]") + "}   ", 8),
      "");
}

TEST(Safetensors, RefusesHeadersThatAreNone) {
  EXPECT_EQ(open_error("", 0, 1 << 20).rfind("not a safetensors file: header of", 0), 0u);
  EXPECT_EQ(open_error("{}", 0, int64_t{1} << 62).rfind("not a safetensors file: header of", 0),
            0u);
  EXPECT_EQ(open_error("[]", 0), "safetensors header is not a JSON object");
  EXPECT_EQ(open_error("{\"a\":", 0), "safetensors header is not a JSON object");
  EXPECT_EQ(open_error("\xff\xfe", 0), "safetensors header is not a JSON object");
  const std::string path = temporary("short.safetensors");
  write_file(path, "1234567");
  EXPECT_THROW(SafetensorsFile{path}, Error);
}

TEST(Safetensors, RefusesHeadersThatTakeMuchMemory) {
  const std::string spaces((1 << 22) - 2, ' ');
  EXPECT_EQ(open_error("{}" + spaces, 0), "");
  EXPECT_EQ(open_error("{}" + spaces + " ", 0).rfind("not a safetensors file: header of", 0), 0u);
}

TEST(Safetensors, RefusesDeepNesting) {
  EXPECT_EQ(open_error("{\"a\":" + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "}", 0),
            "safetensors header is nested too deeply");
}

TEST(Safetensors, RefusesOffsetsThatDoNotTileTheData) {
  const auto two = [](const std::string& first, const std::string& second) {
    return open_error("{" + entry("a", "[2]", first) + "," + entry("b", "[2]", second) + "}");
  };
  EXPECT_EQ(two("[0,8]", "[8,16]"), "");
  EXPECT_EQ(two("[0,8]", "[4,12]"), "tensors overlap at byte 4 of the data");
  EXPECT_EQ(two("[0,8]", "[0,8]"), "tensors overlap at byte 0 of the data");
  EXPECT_EQ(open_error("{" + entry("a", "[2]", "[8,16]") + "}"),
            "tensors leave a gap at byte 8 of the data");
  EXPECT_EQ(open_error("{" + entry("a", "[2]", "[0,8]") + "}"), "8 bytes after the last tensor");
  EXPECT_EQ(open_error("{}"), "16 bytes after the last tensor");
}

TEST(Safetensors, RefusesOffsetsOutsideTheData) {
  for (const char* offsets : {"[0,24]", "[8,0]", "[18446744073709551608,18446744073709551615]",
                              "[0,18446744073709551615]"})
    EXPECT_NE(open_error("{" + entry("a", "[4]", offsets) + "}").find("outside 16 bytes of data"),
              std::string::npos)
        << offsets;
  for (const char* offsets : {"[-8,8]", "[0.0,16.0]", "[0,16,16]", "[0]", "\"0,16\"", "null"})
    EXPECT_NE(open_error("{" + entry("a", "[4]", offsets) + "}"), "") << offsets;
}

TEST(Safetensors, RefusesImpossibleShapes) {
  for (const char* shape :
       {"[5]", "[3]", "[-4]", "[4.0]", "4", "[\"4\"]", "[4611686018427387904,4611686018427387904]",
        "[18446744073709551615]", "[9223372036854775808,2]",
        // 2^32 · 2^32 · 4 bytes wraps to 0
        "[4294967296,4294967296]", "[2305843009213693953,8]"})
    EXPECT_NE(open_error("{" + entry("a", shape, "[0,16]") + "}"), "") << shape;
  EXPECT_EQ(open_error("{" + entry("a", "[4294967296,4294967296]", "[0,0]") + "}", 0),
            "tensor 'a': impossible shape");
}

TEST(Safetensors, RefusesMalformedEntries) {
  EXPECT_EQ(open_error("{" + entry("a", "[4]", "[0,16]", "F99") + "}"),
            "tensor 'a': unknown dtype 'F99'");
  EXPECT_EQ(open_error("{\"a\":[]}"), "tensor 'a': malformed header entry");
  EXPECT_EQ(open_error("{\"a\":{\"dtype\":1,\"shape\":[4],\"data_offsets\":[0,16]}}"),
            "tensor 'a': malformed header entry");
  EXPECT_EQ(open_error("{\"__metadata__\":{\"k\":1}," + entry("a", "[4]", "[0,16]") + "}"),
            "__metadata__ 'k' is not a string");
  EXPECT_EQ(open_error("{\"__metadata__\":[]," + entry("a", "[4]", "[0,16]") + "}"),
            "__metadata__ is not an object");
}

TEST(Safetensors, RefusesDuplicateNames) {
  EXPECT_EQ(open_error("{" + entry("a", "[2]", "[0,8]") + "," + entry("a", "[4]", "[0,16]") + "}"),
            "safetensors header names 'a' twice");
}

}  // namespace
}  // namespace fairway
