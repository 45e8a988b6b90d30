#include <gtest/gtest.h>

#include "support/ranks.h"

std::unique_ptr<fairway::ProcessGroup> fairway::testing::group;

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  fairway::testing::group = fairway::join_process_group();
  const int status = RUN_ALL_TESTS();
  fairway::testing::group.reset();
  return status;
}
