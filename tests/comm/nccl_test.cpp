// NCCL with one rank: whether it loads, and whether exchanges keep their place among kernels. With
// several, see process_group_test.cpp.
#include <gtest/gtest.h>

#include <numeric>

#include "fairway/base/check.h"
#include "fairway/comm/communicator.h"
#include "fairway/device/run_types.h"

#if FAIRWAY_WITH_CUDA

#include "fairway/comm/nccl_communicator.h"

namespace fairway {
namespace {

TEST(GpuNccl, OneRankKeepsWhatItHas) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  CudaDevice device;
  const auto group = make_single_process();
  std::unique_ptr<Communicator> comm;
  try {
    comm = make_nccl_communicator(device, *group);
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  constexpr int64_t kElements = 1 << 22;
  std::vector<float> sent(kElements), got(kElements, -1);
  std::iota(sent.begin(), sent.end(), 0.0f);
  const CudaBuffer a(kElements * sizeof(float)), b(kElements * sizeof(float));
  auto *x = reinterpret_cast<float*>(a.data()), *y = reinterpret_cast<float*>(b.data());
  device.upload(x, sent.data(), kElements * sizeof(float));
  for (const auto slice : {kElements, kElements + 5}) {
    const auto reducing = comm->reduce_scatter(x, kElements, slice);
    comm->wait(reducing);
    device.copy(y, x, kElements * sizeof(float));  // issued at once: must come behind
    const auto gathering = comm->all_gather(y, kElements, slice),
               summing = comm->all_reduce(x, 100);
    comm->wait(summing);
    comm->wait(gathering);
    device.download(got.data(), y, kElements * sizeof(float));
    EXPECT_EQ(sent, got);
  }
}

}  // namespace
}  // namespace fairway

#endif
