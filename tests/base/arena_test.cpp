#include "fairway/base/arena.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace fairway {
namespace {

// Takes some buffers; the same code runs dry and for real.
size_t lay_out(Arena& arena) {
  arena.take<float>("weights", {3, 5});
  const size_t mark = arena.mark();
  arena.take<double>("scratch", {1000});
  arena.release(mark);
  arena.take<uint8_t>("bytes", {7});
  return arena.used();
}

TEST(Arena, DryRunCountsWhatTheRealOneTakes) {
  Arena dry;
  const size_t used = lay_out(dry);
  EXPECT_TRUE(dry.dry());
  EXPECT_EQ(used, 256u + 256u);
  EXPECT_EQ(dry.peak(), 256u + 8192u);

  const HostBuffer memory(dry.peak());
  Arena real(memory.data(), memory.bytes());
  EXPECT_EQ(lay_out(real), used);
  EXPECT_EQ(real.peak(), dry.peak());
}

TEST(Arena, PiecesAreAlignedDisjointAndShaped) {
  const HostBuffer memory(4096);
  Arena arena(memory.data(), memory.bytes());
  const auto a = arena.take<float>("a", {3, 5});
  const auto b = arena.take<uint8_t>("b", {1});
  EXPECT_EQ(a.shape, (Shape{3, 5}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data) % 256, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data) % 256, 0u);
  EXPECT_GE(reinterpret_cast<std::byte*>(b.data), reinterpret_cast<std::byte*>(a.end()));
}

TEST(Arena, TakingMoreThanCountedIsABug) {
  const HostBuffer memory(256);
  Arena arena(memory.data(), memory.bytes());
  arena.take<float>("fits", {64});
  EXPECT_THROW(arena.take<float>("does not", {1}), std::logic_error);
}

TEST(Arena, ReportListsLargestFirst) {
  Arena dry;
  dry.take<float>("small", {1 << 18});
  dry.take<float>("large", {1 << 20});
  dry.take<float>("small", {1 << 18});
  EXPECT_EQ(dry.report(), "         4.0 MiB  large\n         2.0 MiB  small\n");
}

TEST(HostBuffer, IsZeroedAndAligned) {
  for (const size_t bytes : {size_t{1}, size_t{1000}, size_t{3} << 20}) {
    const HostBuffer buffer(bytes);
    EXPECT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + bytes,
                            [](std::byte b) { return b == std::byte{0}; }));
  }
  EXPECT_EQ(HostBuffer(0).data(), nullptr);
}

TEST(HostBuffer, ImpossibleSizesAreErrors) {
  EXPECT_THROW(HostBuffer(size_t{1} << 60), Error);
  EXPECT_THROW(HostBuffer(~size_t{0}), Error);
}

}  // namespace
}  // namespace fairway
