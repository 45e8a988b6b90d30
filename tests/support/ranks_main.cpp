#include <gtest/gtest.h>

#include "fairway/base/check.h"
#include "fairway/device/run_types.h"
#include "support/ranks.h"

namespace fairway::testing {

std::unique_ptr<ProcessGroup> group;

bool gpu_for_every_rank() {
  double gpus = 0;
#if FAIRWAY_WITH_CUDA
  try {
    const CudaDevice device(group->local_rank());
    gpus = 1;
  } catch (const Error&) {
  }
#endif
  group->sum(std::span(&gpus, 1));
  return gpus == group->size();
}

}  // namespace fairway::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  fairway::testing::group = fairway::join_process_group();
  const int status = RUN_ALL_TESTS();
  fairway::testing::group.reset();
  return status;
}
