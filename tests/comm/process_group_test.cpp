// Run by mpirun at several numbers of ranks, and alone: every rank runs every test.
#include "fairway/comm/process_group.h"

#include <gtest/gtest.h>

#include <numeric>

#include "fairway/comm/communicator.h"
#include "fairway/device/cpu_device.h"
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

class Exchanges : public ::testing::Test {
 protected:
  std::vector<float> own(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = value(group->rank(), i);
    return x;
  }
  CpuDevice device{1};
  std::unique_ptr<Communicator> comm = make_communicator(device, *group);
};

// Whole slices, a short last one, ranks without any; several at once, waited for in another order.
TEST_F(Exchanges, SlicesAreSummedAndComeTogether) {
  const int64_t P = comm->size();
  for (const int64_t slice : {1, 7, 1000}) {
    for (const int64_t n : {slice * P, slice * P - slice / 2, slice * (P - 1) + 1, slice}) {
      std::vector<float> a = own(n), b = own(n), c = own(n);
      const auto summing_a = comm->all_reduce(a.data(), n);
      const auto cutting_b = comm->reduce_scatter(b.data(), n, slice);
      const auto cutting_c = comm->reduce_scatter(c.data(), n, slice);
      comm->wait(cutting_c);
      comm->wait(summing_a);
      comm->wait(cutting_b);
      const int64_t begin = std::min(comm->rank() * slice, n), end = std::min(begin + slice, n);
      for (int64_t i = 0; i < n; ++i) EXPECT_EQ(a[static_cast<size_t>(i)], summed(i));
      for (int64_t i = begin; i < end; ++i) {
        EXPECT_EQ(b[static_cast<size_t>(i)], summed(i)) << "slice " << slice << " of " << n;
        EXPECT_EQ(c[static_cast<size_t>(i)], summed(i));
      }
      for (int64_t i = 0; i < n; ++i)
        if (i < begin || i >= end) b[static_cast<size_t>(i)] = -1;
      comm->wait(comm->all_gather(b.data(), n, slice));
      for (int64_t i = 0; i < n; ++i) EXPECT_EQ(b[static_cast<size_t>(i)], summed(i));
    }
  }
}

}  // namespace
}  // namespace fairway
