#include "fairway/io/file_lock.h"

#include <gtest/gtest.h>

#include <optional>

#include "fairway/io/atomic_file.h"
#include "support/temp_dir.h"

namespace fairway {
namespace {

TEST(DirectoryLock, IsHeldByOneAndLeavesNothing) {
  const TempDir dir;
  const auto run = dir / "new/run";
  std::optional<DirectoryLock> lock(run);
  EXPECT_EQ(error_of([&] { const DirectoryLock second(run); }),
            run.string() +
                ": another process is at work in this directory; wait for it to end, or "
                "choose another one");
  lock.reset();
  EXPECT_EQ(dir.files(), (std::vector<std::string>{"new", "new/run"}));
  dir.write("new/run/.lock", "");  // left by a killed process
  EXPECT_EQ(error_of([&] { const DirectoryLock next(run); }), "");
  EXPECT_NE(error_of([&] { const DirectoryLock no(dir.write("file", "") / "below"); }), "");
}

TEST(AtomicFileLock, ATargetIsWrittenByOneAndLeftoversAreTakenOver) {
  const TempDir dir;
  dir.write("a.tmp", "half of what a killed process was to write");
  {
    AtomicFile file(dir / "a");
    EXPECT_EQ(error_of([&] { write_file(dir / "a", "x"); }),
              (dir / "a").string() + ": another process is writing this file; wait for it to end");
    file.write("whole");
    file.commit();
  }
  EXPECT_EQ(read_file(dir / "a"), "whole");
  write_file(dir / "a", "x");
  EXPECT_EQ(dir.files(), std::vector<std::string>{"a"});
}

TEST(CheckCanWrite, SaysSoBeforehand) {
  const TempDir dir;
  EXPECT_EQ(error_of([&] { check_can_write(dir / "a"); }), "");
  EXPECT_NE(error_of([&] { check_can_write(dir / "none/a"); }).find("make its directory first"),
            std::string::npos);
  EXPECT_NE(error_of([&] { check_can_write(dir.path()); }), "");
  EXPECT_EQ(dir.files(), std::vector<std::string>{});
}

}  // namespace
}  // namespace fairway
