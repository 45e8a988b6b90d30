// Run by mpirun at several numbers of ranks, and alone: every rank runs every test.
#include "fairway/comm/process_group.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "fairway/comm/communicator.h"
#include "fairway/device/run_types.h"
#include "support/ranks.h"

namespace fairway {
namespace {

using testing::group;

std::vector<std::byte> message_of(int rank) {
  return std::vector<std::byte>(static_cast<size_t>(3 * rank), static_cast<std::byte>(rank));
}

TEST(ProcessGroup, RanksAreTheLaunchersRanks) {
  const char* launched = std::getenv("OMPI_COMM_WORLD_SIZE");
  EXPECT_EQ(group->size(), launched ? std::atoi(launched) : 1);
  EXPECT_LT(group->rank(), group->size());
  EXPECT_EQ(group->local_size(), group->size());
  EXPECT_EQ(group->local_rank(), group->rank());
  EXPECT_EQ(group->threads(0) == 0, group->size() == 1);
}

TEST(ProcessGroup, RankZeroIsHeardEverywhere) {
  EXPECT_EQ(group->broadcast(group->rank() == 0 ? 12.5 : -1.0), 12.5);
}

TEST(ProcessGroup, SumsAreOverAllRanks) {
  const int n = group->size();
  std::vector<double> d{1.0 + group->rank(), 0.5};
  std::vector<float> f{static_cast<float>(group->rank())};
  group->sum(std::span<double>(d));
  group->sum(std::span<float>(f));
  EXPECT_EQ(d, (std::vector<double>{n * (n + 1) / 2.0, n / 2.0}));
  EXPECT_EQ(f.front(), static_cast<float>(n * (n - 1)) / 2);
}

TEST(ProcessGroup, BytesComeTogetherAtRankZero) {
  const auto all = group->gather(message_of(group->rank()));
  if (!group->root()) {
    EXPECT_TRUE(all.empty());
    return;
  }
  ASSERT_EQ(std::ssize(all), group->size());
  for (int r = 0; r < group->size(); ++r) EXPECT_EQ(all[static_cast<size_t>(r)], message_of(r));
}

TEST(ProcessGroup, MessagesKeepTheirOrder) {
  if (group->size() == 1) return;
  const int last = group->size() - 1;
  for (int i = 0; i < 3; ++i) {
    if (group->rank() == last) group->send(0, message_of(i));
    if (!group->root()) continue;
    EXPECT_EQ(group->receive(last), message_of(i));
  }
}

TEST(ProcessGroup, MessagesCanBeReceivedInPlace) {
  if (group->size() == 1) return;
  std::vector<std::byte> bytes(5, std::byte{9});
  if (!group->root()) {
    group->send(0, message_of(1));  // three bytes
    return;
  }
  for (int from = 1; from < group->size(); ++from) {
    group->receive(from, std::span(bytes).subspan(1, 3));
    std::vector<std::byte> want(5, std::byte{9});
    std::copy_n(message_of(1).begin(), 3, want.begin() + 1);
    EXPECT_EQ(bytes, want);
    bytes.assign(5, std::byte{9});
  }
}

TEST(ProcessGroup, AQueueGivesEachNumberOnce) {
  constexpr int64_t kNumbers = 200;
  std::vector<float> taken(kNumbers, 0);
  {
    const auto queue = group->make_queue();
    for (int64_t i = queue->next(); i < kNumbers; i = queue->next()) {
      ++taken[static_cast<size_t>(i)];
      queue->poll();
    }
  }
  group->sum(std::span<float>(taken));
  EXPECT_EQ(taken, std::vector<float>(kNumbers, 1));
}

// What rank r holds at element i; sums are exact.
float value(int rank, int64_t i) {
  return static_cast<float>((rank + 1) * (i % 100 + 1));
}
float summed(int64_t i) {
  float sum = 0;
  for (int r = 0; r < group->size(); ++r) sum += value(r, i);
  return sum;
}

template <class Device>
class Exchanges : public ::testing::Test {
 protected:
  void SetUp() override {
    if constexpr (std::is_same_v<Device, CpuDevice>) {
      device_ = std::make_unique<Device>(1);
    } else {
      if (!testing::gpu_for_every_rank()) GTEST_SKIP() << "no GPU here for every rank";
      device_ = std::make_unique<Device>(group->local_rank());
    }
    comm_ = make_communicator(*device_, *group);
  }

  // A tensor in the device's memory.
  class Own {
   public:
    Own(Device& device, const std::vector<float>& values)
        : device_(device), n_(values.size()), memory_(device.allocate(n_ * sizeof(float))) {
      *this = values;
    }
    Own& operator=(const std::vector<float>& values) {
      device_.upload(data(), values.data(), n_ * sizeof(float));
      return *this;
    }
    float* data() const { return reinterpret_cast<float*>(memory_.data()); }
    std::vector<float> host() const {
      std::vector<float> values(n_);
      device_.download(values.data(), data(), n_ * sizeof(float));
      return values;
    }

   private:
    Device& device_;
    size_t n_;
    typename Device::Buffer memory_;
  };
  Own own(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = value(group->rank(), i);
    return {*device_, x};
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Communicator> comm_;
};

struct DeviceNames {
  template <class Device>
  static std::string GetName(int) {
    return std::is_same_v<Device, CpuDevice> ? "Cpu" : "Gpu";
  }
};
#if FAIRWAY_WITH_CUDA
using Devices = ::testing::Types<CpuDevice, CudaDevice>;
#else
using Devices = ::testing::Types<CpuDevice>;
#endif
TYPED_TEST_SUITE(Exchanges, Devices, DeviceNames);

// Whole slices, a short last one, ranks without any; several at once, waited for in another order.
TYPED_TEST(Exchanges, SlicesAreSummedAndComeTogether) {
  Communicator& comm = *this->comm_;
  const int64_t P = comm.size();
  for (const int64_t slice : {1, 7, 1000, 300'000}) {
    for (const int64_t n : {slice * P, slice * P - slice / 2, slice * (P - 1) + 1, slice}) {
      auto a = this->own(n), b = this->own(n), c = this->own(n);
      const auto summing_a = comm.all_reduce(a.data(), n);
      const auto cutting_b = comm.reduce_scatter(b.data(), n, slice);
      const auto cutting_c = comm.reduce_scatter(c.data(), n, slice);
      comm.wait(cutting_c);
      comm.wait(summing_a);
      comm.wait(cutting_b);
      std::vector<float> sums(static_cast<size_t>(n)), own(static_cast<size_t>(n), -1);
      const int64_t begin = std::min(comm.rank() * slice, n), end = std::min(begin + slice, n);
      for (int64_t i = 0; i < n; ++i) {
        sums[static_cast<size_t>(i)] = summed(i);
        if (i >= begin && i < end) own[static_cast<size_t>(i)] = summed(i);
      }
      EXPECT_EQ(a.host(), sums);
      const auto kept = [&](const std::vector<float>& x) {
        std::vector<float> out(x.size(), -1);
        std::copy(x.begin() + begin, x.begin() + end, out.begin() + begin);
        return out;
      };
      EXPECT_EQ(kept(b.host()), own) << "slice " << slice << " of " << n;
      EXPECT_EQ(kept(c.host()), own) << "slice " << slice << " of " << n;
      b = own;  // what lies elsewhere must come from there
      comm.wait(comm.all_gather(b.data(), n, slice));
      EXPECT_EQ(b.host(), sums) << "slice " << slice << " of " << n;
    }
  }
}

}  // namespace
}  // namespace fairway
