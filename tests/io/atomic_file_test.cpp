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

class Caching : public AtomicFileTest, public testing::WithParamInterface<Cached> {};
INSTANTIATE_TEST_SUITE_P(, Caching, testing::Values(Cached::yes, Cached::no));

TEST_P(Caching, CommitMakesTheWholeFile) {
  AtomicFile file(dir_ / "a", GetParam());
  std::string expected;
  for (int i = 0; i < 6000; ++i) {  // past the buffer several times, in odd pieces
    const std::string piece(static_cast<size_t>(i), static_cast<char>('a' + i % 26));
    file.write(piece);
    expected += piece;
  }
  const std::string large(size_t{13} << 20, 'L');
  file.write(large);
  file.write_value(uint32_t{0x64636261});
  expected += large + "abcd";
  EXPECT_EQ(file.written(), expected.size());
  EXPECT_FALSE(fs::exists(dir_ / "a"));
  file.commit();
  EXPECT_TRUE(read_file(dir_ / "a") == expected);
  EXPECT_EQ(files(), std::vector<std::string>{"a"});
}

// Of lengths around the buffer's and the disk's, some bytes overwritten in between.
TEST_P(Caching, LengthsOfAllKinds) {
  for (const size_t size : {0, 1, 4095, 4096, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 8 << 20}) {
    std::string body(size, '.');
    for (size_t i = 0; i < size; i += 97) body[i] = static_cast<char>('a' + i % 26);
    AtomicFile file(dir_ / "a", GetParam());
    file.write(body);
    std::string expected = body + body;
    if (size > 10) {
      file.write_at(3, std::as_bytes(std::span("1234", 4)));
      expected.replace(3, 4, "1234");
    }
    file.write(body);
    file.commit();
    EXPECT_TRUE(read_file(dir_ / "a") == expected) << size;
  }
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

TEST_P(Caching, FullDiskIsAnErrorThatLeavesNothing) {
  write_file(dir_ / "a", "old");
  for (const size_t size : {size_t{5000}, size_t{9} << 20}) {  // fails in commit, in write
    const FileSizeLimit limit(GetParam() == Cached::yes ? 4096 : size - 1001);
    const std::string path = dir_ / "a";
    try {
      AtomicFile file(path, GetParam());
      file.write(std::string(size, 'x'));
      file.commit();
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
