#include "fairway/base/fields.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fairway/base/rng.h"

namespace fairway {
namespace {

enum class Colour { red, green };
constexpr std::array<std::string_view, 2> names(Colour) {
  return {"red", "green"};
}

template <class T>
T parsed(std::string_view text) {
  T value{};
  parse_field("--x", text, value);
  return value;
}

TEST(Fields, EveryTypeFormatsToTextThatReadsBack) {
  const auto survives = [](const auto& value) {
    return parsed<std::remove_cvref_t<decltype(value)>>(format_field(value)) == value;
  };
  EXPECT_TRUE(survives(true));
  EXPECT_TRUE(survives(std::numeric_limits<int>::min()));
  EXPECT_TRUE(survives(std::numeric_limits<int64_t>::max()));
  EXPECT_TRUE(survives(uint64_t{1} << 62));
  EXPECT_TRUE(survives(std::string("a b=c")));
  EXPECT_TRUE(survives(std::vector<std::string>{"a", "b c"}));
  EXPECT_TRUE(survives(std::vector<std::string>{}));
  EXPECT_TRUE(survives(Colour::green));
}

TEST(Fields, DoublesKeepTheirBits) {
  const Philox rng(1, 0);
  for (uint64_t i = 0; i < 10000; ++i) {
    const double value = std::bit_cast<double>(rng.bits(i));
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(parsed<double>(format_field(value)), value);
  }
}

TEST(Fields, WrongTextIsAUsageErrorThatNamesTheKey) {
  const auto message = [](auto kind, std::string_view text) -> std::string {
    try {
      parsed<decltype(kind)>(text);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "(none)";
  };
  EXPECT_EQ(message(int{}, "3.5"), "--x: '3.5' is not an integer");
  EXPECT_EQ(message(int{}, ""), "--x: '' is not an integer");
  EXPECT_EQ(message(int{}, "3000000000"), "--x: 3000000000 is out of range");
  EXPECT_EQ(message(uint64_t{}, "-1"), "--x: -1 is out of range");
  EXPECT_EQ(message(double{}, "inf"), "--x: 'inf' is not a finite number");
  EXPECT_EQ(message(double{}, "1e999"), "--x: '1e999' is not a finite number");
  EXPECT_EQ(message(double{}, "1x"), "--x: '1x' is not a finite number");
  EXPECT_EQ(message(bool{}, "maybe"), "--x: 'maybe' is not true or false");
  EXPECT_EQ(message(Colour{}, "blue"), "--x: 'blue' is not one of red, green");
}

TEST(Fields, ClosestFindsTyposAndLeavesStrangersAlone) {
  const std::vector<std::string> keys{"steps", "warmdown", "batch_tokens"};
  EXPECT_EQ(closest("stesp", keys), "steps");
  EXPECT_EQ(closest("batch_token", keys), "batch_tokens");
  EXPECT_EQ(closest("tokens_batch_size_x", keys), "");
}

}  // namespace
}  // namespace fairway
