#include "fairway/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <string>

#include "fairway/base/check.h"
#include "fairway/io/mapped_file.h"

namespace fairway {
namespace {

namespace fs = std::filesystem;

// An empty directory of the test's own.
class AtomicFileTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    dir_ = fs::path(testing::TempDir()) / fmt::format("fairway-{}-{}", info->name(), ::getpid());
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::vector<std::string> files() const {
    std::vector<std::string> out;
    for (const auto& e : fs::directory_iterator(dir_)) out.push_back(e.path().filename());
    return out;
  }

  fs::path dir_;
};

// Stands for a full disk: files may not grow past `bytes` while it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST_F(AtomicFileTest, CommitMakesTheWholeFile) {
  AtomicFile file(dir_ / "a");
  std::string expected;
  for (int i = 0; i < 3000; ++i) {  // past the buffer several times, in odd pieces
    const std::string piece(static_cast<size_t>(i), static_cast<char>('a' + i % 26));
    file.write(piece);
    expected += piece;
  }
  file.write_value(uint32_t{0x64636261});
  expected += "abcd";
  EXPECT_EQ(file.written(), expected.size());
  EXPECT_FALSE(fs::exists(dir_ / "a"));
  file.commit();
  EXPECT_EQ(read_file(dir_ / "a"), expected);
  EXPECT_EQ(files(), std::vector<std::string>{"a"});
}

TEST_F(AtomicFileTest, WriteAtOverwrites) {
  AtomicFile file(dir_ / "a");
  file.write("0000 body");
  file.write_at(1, std::as_bytes(std::span("12", 2)));
  file.write(" and more");
  file.commit();
  EXPECT_EQ(read_file(dir_ / "a"), "0120 body and more");
}

TEST_F(AtomicFileTest, WithoutCommitTheOldFileStays) {
  write_file(dir_ / "a", "old");
  {
    AtomicFile file(dir_ / "a");
    file.write(std::string(3 << 20, 'x'));
  }
  EXPECT_EQ(read_file(dir_ / "a"), "old");
  EXPECT_EQ(files(), std::vector<std::string>{"a"});
}

TEST_F(AtomicFileTest, FullDiskIsAnErrorThatLeavesNothing) {
  write_file(dir_ / "a", "old");
  for (const size_t size : {size_t{5000}, size_t{3} << 20}) {  // fails in commit, in write
    const FileSizeLimit limit(4096);
    const std::string path = dir_ / "a";
    try {
      write_file(path, std::string(size, 'x'));
      FAIL() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).rfind(path + ": cannot write: ", 0), 0u) << e.what();
    }
  }
  EXPECT_EQ(read_file(dir_ / "a"), "old");
  EXPECT_EQ(files(), std::vector<std::string>{"a"});
}

TEST_F(AtomicFileTest, MissingDirectoryAndDirectoryAsTargetAreErrors) {
  EXPECT_THROW(AtomicFile(dir_ / "none" / "a"), Error);
  fs::create_directory(dir_ / "d");
  EXPECT_THROW(write_file(dir_ / "d", "x"), Error);
  EXPECT_EQ(files(), std::vector<std::string>{"d"});
}

TEST_F(AtomicFileTest, MappedFileRefusesWhatIsNoFile) {
  EXPECT_THROW(MappedFile(dir_ / "none"), Error);
  EXPECT_THROW(MappedFile{dir_}, Error);
  ASSERT_EQ(::mkfifo((dir_ / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(MappedFile(dir_ / "pipe"), Error);  // and does not wait for a writer
  write_file(dir_ / "empty", "");
  EXPECT_TRUE(MappedFile(dir_ / "empty").bytes().empty());
}

}  // namespace
}  // namespace fairway
