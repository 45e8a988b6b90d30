#include "fairway/data/byte_source.h"

#include <fcntl.h>
#include <lzma.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <vector>

#include "fairway/base/check.h"

namespace fairway {

namespace {

constexpr size_t kInputBytes = size_t{1} << 16;
constexpr uint64_t kXzStateBytes = uint64_t{1} << 20;  // of an xz decoder besides its window

class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(const std::filesystem::path& path)
      : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    require(fd_ >= 0, "{}: cannot open: {}", path.string(), std::strerror(errno));
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  PlainSource(const PlainSource&) = delete;
  PlainSource& operator=(const PlainSource&) = delete;
  ~PlainSource() override { ::close(fd_); }

  size_t read(std::span<char> out) override {
    size_t filled = 0;
    while (filled < out.size()) {
      const ssize_t n = ::read(fd_, out.data() + filled, out.size() - filled);
      if (n < 0 && errno == EINTR) continue;
      require(n >= 0, "{}: cannot read: {}", path_.string(), std::strerror(errno));
      if (n == 0) break;
      filled += static_cast<size_t>(n);
    }
    consumed_ += static_cast<int64_t>(filled);
    return filled;
  }
  int64_t consumed() const override { return consumed_; }

 private:
  std::filesystem::path path_;
  int fd_;
  int64_t consumed_ = 0;
};

// What the three decoders share: a buffer of compressed input, and the loop around a step that
// turns some of it into some output.
class Decoder : public ByteSource {
 public:
  Decoder(std::unique_ptr<ByteSource> file, const std::filesystem::path& path)
      : file_(std::move(file)), path_(path), buffer_(kInputBytes) {}

  size_t read(std::span<char> out) final {
    size_t filled = 0;
    while (filled < out.size() && !finished_) {
      if (input_.empty() && !at_end_) {
        input_ = std::span(buffer_).first(file_->read(buffer_));
        at_end_ = input_.size() < buffer_.size();
      }
      filled += step(out.subspan(filled));
    }
    return filled;
  }
  int64_t consumed() const final { return file_->consumed(); }

 protected:
  // Takes bytes off the front of input_ and returns how many of `out` it has written. Sets
  // finished_ at the proper end; must fail, not return 0 for ever, when at_end_ and nothing more
  // can come.
  virtual size_t step(std::span<char> out) = 0;

  [[noreturn]] void damaged(const char* what) const {
    fail("{}: near byte {}: {}; fetch or compress the file again", path_.string(),
         file_->consumed() - static_cast<int64_t>(input_.size()), what);
  }

  // For formats whose parts (frames, members) may follow each other: after a step that has ended a
  // part or not, taken `taken` bytes and made `made`. The file ends well where a part does.
  void progress(bool ended, size_t taken, size_t made) {
    if (ended)
      open_ = false;
    else if (taken > 0)
      open_ = true;
    if (taken > 0 || made > 0 || !at_end_) return;
    if (open_) damaged("the file is cut short");
    finished_ = true;
  }

  std::unique_ptr<ByteSource> file_;
  std::filesystem::path path_;
  std::vector<char> buffer_;
  std::span<char> input_;
  bool at_end_ = false, finished_ = false;

 private:
  bool open_ = true;
};

class XzSource final : public Decoder {
 public:
  XzSource(std::unique_ptr<ByteSource> file, const std::filesystem::path& path, uint64_t max_window)
      : Decoder(std::move(file), path) {
    const lzma_ret status =
        lzma_stream_decoder(&stream_, max_window + kXzStateBytes, LZMA_CONCATENATED);
    require(status == LZMA_OK, "{}: cannot start the xz decoder", path.string());
  }
  ~XzSource() override { lzma_end(&stream_); }

 private:
  size_t step(std::span<char> out) override {
    stream_.next_in = reinterpret_cast<const uint8_t*>(input_.data());
    stream_.avail_in = input_.size();
    stream_.next_out = reinterpret_cast<uint8_t*>(out.data());
    stream_.avail_out = out.size();
    const lzma_ret status = lzma_code(&stream_, at_end_ ? LZMA_FINISH : LZMA_RUN);
    input_ = input_.last(stream_.avail_in);
    if (status == LZMA_STREAM_END)
      finished_ = true;
    else if (status == LZMA_FORMAT_ERROR)
      damaged("not an xz file");
    else if (status == LZMA_BUF_ERROR)
      damaged("the file is cut short");
    else if (status == LZMA_MEMLIMIT_ERROR)
      damaged("the xz file asks for more memory than 'xz -9' makes files for");
    else if (status != LZMA_OK)
      damaged("the xz file is damaged");
    return out.size() - stream_.avail_out;
  }
  lzma_stream stream_ = LZMA_STREAM_INIT;
};

class ZstdSource final : public Decoder {
 public:
  ZstdSource(std::unique_ptr<ByteSource> file, const std::filesystem::path& path,
             uint64_t max_window)
      : Decoder(std::move(file), path), stream_(ZSTD_createDStream()) {
    const int window_log = std::bit_width(max_window) - 1;
    const bool ready = stream_ != nullptr && !ZSTD_isError(ZSTD_DCtx_setParameter(
                                                 stream_, ZSTD_d_windowLogMax, window_log));
    if (!ready) ZSTD_freeDStream(stream_);
    require(ready, "{}: cannot start the zstd decoder", path.string());
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

 private:
  size_t step(std::span<char> out) override {
    // The library also reads formats from before 2016, with decoders that know no bound.
    if (frame_begins_ && !input_.empty()) {
      const auto first = static_cast<unsigned char>(input_[0]);
      if (first != 0x28 && (first & 0xF0) != 0x50) damaged("not a zstd file");
    }
    ZSTD_inBuffer in{input_.data(), input_.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    const size_t status = ZSTD_decompressStream(stream_, &to, &in);
    if (ZSTD_isError(status)) damaged(ZSTD_getErrorName(status));
    input_ = input_.subspan(in.pos);
    frame_begins_ = status == 0 || (frame_begins_ && in.pos == 0);
    progress(status == 0, in.pos, to.pos);
    return to.pos;
  }
  ZSTD_DStream* stream_;
  bool frame_begins_ = true;
};

class GzSource final : public Decoder {
 public:
  GzSource(std::unique_ptr<ByteSource> file, const std::filesystem::path& path)
      : Decoder(std::move(file), path) {
    constexpr int kGzipOnly = 15 + 16;
    require(inflateInit2(&stream_, kGzipOnly) == Z_OK, "{}: cannot start the gzip decoder",
            path.string());
  }
  ~GzSource() override { inflateEnd(&stream_); }

 private:
  size_t step(std::span<char> out) override {
    const auto room = static_cast<uInt>(std::min(out.size(), size_t{1} << 30));
    stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
    stream_.avail_in = static_cast<uInt>(input_.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = room;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_BUF_ERROR && status != Z_STREAM_END)
      damaged(stream_.msg ? stream_.msg : "the gzip file is damaged");
    if (status == Z_STREAM_END) inflateReset(&stream_);
    const size_t taken = input_.size() - stream_.avail_in, made = room - stream_.avail_out;
    input_ = input_.subspan(taken);
    progress(status == Z_STREAM_END, taken, made);
    return made;
  }
  z_stream stream_{};
};

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::filesystem::path& path) {
  return decompress(std::make_unique<PlainSource>(path), path);
}

std::unique_ptr<ByteSource> decompress(std::unique_ptr<ByteSource> file,
                                       const std::filesystem::path& path, uint64_t max_window) {
  const auto extension = path.extension();
  if (extension == ".xz") return std::make_unique<XzSource>(std::move(file), path, max_window);
  if (extension == ".zst") return std::make_unique<ZstdSource>(std::move(file), path, max_window);
  if (extension == ".gz") return std::make_unique<GzSource>(std::move(file), path);
  return file;
}

}  // namespace fairway
