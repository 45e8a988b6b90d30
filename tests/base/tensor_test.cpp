#include "fairway/base/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace fairway {
namespace {

TEST(Tensor, SliceIsTheIthPieceAlongTheFirstExtent) {
  std::vector<int> values(24);
  std::iota(values.begin(), values.end(), 0);
  const Tensor<int> t(values.data(), {2, 3, 4});
  EXPECT_EQ(t.size(), 24);
  const auto s = t.slice(1);
  EXPECT_EQ(s.shape, (Shape{3, 4}));
  EXPECT_EQ(s[0], 12);
  EXPECT_EQ(s.slice(2)[3], 23);
  EXPECT_EQ(s.slice(2).slice(3)[0], 23);
}

TEST(Tensor, ScalarsAndEmptyShapesHaveTheRightSize) {
  EXPECT_EQ((Shape{}).size(), 1);
  EXPECT_EQ((Shape{5, 0, 3}).size(), 0);
  EXPECT_NE((Shape{2}), (Shape{2, 1}));
}

TEST(Tensor, FiveExtentsAreABug) {
  EXPECT_THROW((Shape{1, 2, 3, 4, 5}), std::logic_error);
}

}  // namespace
}  // namespace fairway
