// Uploads through staging memory, sums that stay on the GPU, and recorded work.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/cpu_device.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/graphs.h"
#include "fairway/ops/grad_norm.h"

namespace fairway {
namespace {

#if FAIRWAY_WITH_CUDA

class GpuDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  }
};

// Three times as much as is staged at once, in parts of many sizes, from memory that changes as
// soon as upload returns.
TEST_F(GpuDevice, UploadsMayReuseHostMemory) {
  CudaDevice device;
  constexpr size_t kBytes = size_t{24} << 20;
  std::vector<uint8_t> want(kBytes), got(kBytes);
  const Philox rng(1, 0);
  for (size_t i = 0; i < kBytes; i += 4) {
    const uint32_t word = rng.block(i)[0];
    std::memcpy(&want[i], &word, 4);
  }
  const auto memory = device.allocate(kBytes);
  std::vector<uint8_t> part;
  for (size_t at = 0, size = 1; at < kBytes; at += part.size(), size = size * 3 % 5'000'011) {
    const auto begin = want.begin() + static_cast<std::ptrdiff_t>(at);
    part.assign(begin, begin + static_cast<std::ptrdiff_t>(std::min(size, kBytes - at)));
    device.upload(memory.data() + at, part.data(), part.size());
    std::fill(part.begin(), part.end(), uint8_t{0xA5});
  }
  device.download(got.data(), memory.data(), kBytes);
  EXPECT_EQ(got, want);
}

TEST_F(GpuDevice, SumsAreTheCpus) {
  CudaDevice gpu;
  CpuDevice cpu(2);
  for (const size_t n : {size_t{0}, size_t{1}, size_t{16'384}, size_t{16'385}, size_t{1'000'003}}) {
    const Philox rng(3, n);
    std::vector<float> x(n + 1);  // an element more, for a beginning that is not aligned
    double size = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(rng.normal(i) * std::exp2(static_cast<double>(i % 20)));
      size += std::fabs(double{x[i]});
    }
    const auto sums = [&]<class Device>(Device& device, size_t from) {
      const auto memory = device.allocate(x.size() * sizeof(float) + 2 * sizeof(double));
      auto* const totals = reinterpret_cast<double*>(memory.data());
      auto* const values = reinterpret_cast<float*>(totals + 2);
      std::vector<double> host{3, 5};
      device.upload(totals, host.data(), 2 * sizeof(double));
      device.upload(values, x.data(), x.size() * sizeof(float));
      add_sum(device, static_cast<int64_t>(n), values + from, &totals[0]);
      add_squares(device, static_cast<int64_t>(n), values + from, &totals[1]);
      device.download(host.data(), totals, 2 * sizeof(double));
      return host;
    };
    for (const size_t from : {size_t{0}, size_t{1}}) {
      const auto want = sums(cpu, from), got = sums(gpu, from);
      // In any order n additions err by at most n roundings of the sum of the sizes.
      const double rounding = static_cast<double>(n + 1) * 0x1p-53;
      EXPECT_NEAR(got[0], want[0], 2 * rounding * (size + 3)) << n << " from " << from;
      EXPECT_NEAR(got[1], want[1], 2 * rounding * want[1]) << n << " from " << from;
      EXPECT_EQ(sums(gpu, from), got) << n << " from " << from;
    }
  }
}

// total += x, through a workspace.
struct Work {
  explicit Work(CudaDevice& d) : device(d), memory(d.allocate(2 * sizeof(double))) {}
  void issue(int64_t n) {
    ++calls;
    add_sum(device, n, reinterpret_cast<const float*>(memory.data() + sizeof(double)),
            reinterpret_cast<double*>(memory.data()));
  }
  void set(float x) {
    const float both[2] = {x, x};
    device.upload(memory.data() + sizeof(double), both, sizeof both);
  }
  double total() {
    double t = 0;
    device.download(&t, memory.data(), sizeof t);
    return t;
  }
  CudaDevice& device;
  CudaBuffer memory;
  int calls = 0;
};

TEST_F(GpuDevice, RecordedWorkReadsWhatIsInMemory) {
  CudaDevice device;
  Work work(device);
  CudaGraphs graphs(device, 4);
  double want = 0;
  for (int i = 1; i <= 10; ++i) {
    work.set(static_cast<float>(i));
    graphs.run({1}, [&] { work.issue(1); });
    graphs.run({2, 1}, [&] { work.issue(2); });
    want += 3 * i;
  }
  EXPECT_EQ(work.total(), want);
  EXPECT_EQ(work.calls, 4);  // each key's first two times
}

TEST_F(GpuDevice, GraphsOffCallsEveryTime) {
  CudaDevice device;
  device.use_graphs(false);
  Work work(device);
  CudaGraphs graphs(device, 4);
  work.set(1);
  for (int i = 0; i < 5; ++i) graphs.run({1}, [&] { work.issue(1); });
  EXPECT_EQ(work.calls, 5);
  EXPECT_EQ(work.total(), 5);
}

// A recording holds the workspace's address.
TEST_F(GpuDevice, AWorkspaceThatMovesIsRecordedAnew) {
  CudaDevice device;
  Work work(device);
  CudaGraphs graphs(device, 4);
  work.set(1);
  for (int i = 0; i < 3; ++i) graphs.run({1}, [&] { work.issue(1); });
  EXPECT_EQ(work.calls, 2);
  for (int i = 0; i < static_cast<int>(Workspace::count); ++i)
    device.workspace(static_cast<Workspace>(i), size_t{1} << 20);
  for (int i = 0; i < 3; ++i) graphs.run({1}, [&] { work.issue(1); });
  EXPECT_EQ(work.calls, 3);
  EXPECT_EQ(work.total(), 6);
}

TEST_F(GpuDevice, TheKeyUsedLongestAgoIsForgotten) {
  CudaDevice device;
  Work work(device);
  CudaGraphs graphs(device, 2);
  work.set(1);
  const auto run = [&](int64_t key) { graphs.run({key}, [&] { work.issue(1); }); };
  for (const int64_t key : {1, 1, 1, 2, 2, 1, 3, 1}) run(key);  // 3 takes the place of 2
  EXPECT_EQ(work.calls, 5);
  run(2);
  EXPECT_EQ(work.calls, 6);
  EXPECT_EQ(work.total(), 9);
}

// What must not be recorded is refused, and leaves the device as it was.
TEST_F(GpuDevice, UploadsAndLargerWorkspacesAreNotRecorded) {
  CudaDevice device;
  Work work(device);
  CudaGraphs graphs(device, 2);
  graphs.run({1}, [&] { work.set(1); });
  EXPECT_THROW(graphs.run({1}, [&] { work.set(1); }), std::logic_error);
  graphs.run({2}, [&] { work.issue(1); });
  EXPECT_THROW(graphs.run({2}, [&] { device.workspace(Workspace::transposed, size_t{1} << 20); }),
               std::logic_error);
  EXPECT_EQ(work.total(), 1);
}

#endif

}  // namespace
}  // namespace fairway
