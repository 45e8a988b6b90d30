// A document's adapters give the same bits whatever other documents are in the call.
#include "fairway/ops/low_rank.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/run_types.h"
#include "fairway/ops/adapter_copies.h"
#include "fairway/ops/linear_adapted.h"

namespace fairway {
namespace {

constexpr int64_t kIn = 64, kG = 4;

template <class Device, class T>
class Documents {
 public:
  Documents(Device& device, int64_t rank, int64_t out) : device_(device), rank_(rank), out_(out) {}

  // What the products leave of documents with rows [starts[i], starts[i + 1]) each, as bytes:
  // first what has rows, then what has documents.
  struct Result {
    std::vector<std::string> rows, docs;
  };
  // With copies for low_rank_ups_backward to read, between which there is nothing that it may.
  Result run(const std::vector<int32_t>& starts, int64_t first_doc, bool copies = false) {
    memory_.clear();
    const int64_t docs = std::ssize(starts) - 1, begin = starts.front();
    const int64_t rows = starts.back() - begin, width = kG * rank_;
    const auto doc_rows = upload(starts);
    using A = Accum<T>;
    auto* pairs = values<A>(docs * stride(), first_doc * stride(), 0);
    auto* gradient = values<T>(docs * stride(), first_doc * stride(), 1);
    const Tensor<T> x{values<T>(rows * kIn, begin * kIn, 2), {rows, kIn}};
    const Tensor<T> dy{values<T>(rows * out_, begin * out_, 3), {rows, out_}};
    const Tensor<T> y{values<T>(rows * out_, begin * out_, 4), {rows, out_}};
    const Tensor<T> dx{values<T>(rows * kIn, begin * kIn, 5), {rows, kIn}};
    const Tensor<T> xa{values<T>(rows * width, begin * width, 6), {rows, width}};
    const Tensor<T> dxa{values<T>(rows * width, begin * width, 7), {rows, width}};
    const Tensor<T> w{values<T>(out_ * kIn, 0, 8), {out_, kIn}};
    const Tensor<T> sum{values<T>(rows * out_, begin * out_, 9), {rows, out_}};
    const Tensor<T> dsum{values<T>(rows * kIn, begin * kIn, 10), {rows, kIn}};
    int64_t most_rows = 0;
    for (int64_t i = 0; i < docs; ++i)
      most_rows = std::max<int64_t>(
          most_rows, starts[static_cast<size_t>(i + 1)] - starts[static_cast<size_t>(i)]);
    const auto down_of = [&]<class U>(U* base) {
      LowRankDown<U> down;
      for (int64_t i = 0; i < kG; ++i) down.a[static_cast<size_t>(i)] = base + i * rank_ * kIn;
      down.count = kG;
      down.stride = stride();
      down.docs = docs;
      down.doc_rows = {doc_rows, {docs + 1}};
      down.rank = rank_;
      down.in = kIn;
      down.most_rows = most_rows;
      return down;
    };
    const auto down = down_of(static_cast<const A*>(pairs));
    LowRankUp<const A> up{pairs + width * kIn, stride(), docs, down.doc_rows, rank_, out_, 1};
    up.most_rows = most_rows;
    low_rank_down<T>(device_, x, down, xa);
    low_rank_up<T>(device_, xa, up, y);
    low_rank_up_backward<T>(device_, dy, xa, up, dxa, gradient + width * kIn);
    low_rank_down_backward<T>(device_, dxa, x, down, dx, down_of(gradient));
    // The first of out_ columns, three of kIn.
    const Tensor<T> dy_narrow{values<T>(rows * kIn, begin * kIn, 11), {rows, kIn}};
    const Tensor<T> dxa_of_all{values<T>(rows * width, begin * width, 12), {rows, width}};
    auto* gradients = values<T>(docs * stride(), first_doc * stride(), 13);
    std::vector<LowRankUpBackward<T>> ups;
    std::vector<AdapterMatrix> matrices;
    const int64_t copies_stride = kG * 2 * rank_ * out_;
    for (int i = 0; i < kG; ++i) {
      const bool narrow = i > 0;
      const int64_t at = narrow ? i * rank_ * kIn : width * kIn;
      ups.push_back({{pairs + at, stride(), docs, down.doc_rows, rank_, narrow ? kIn : out_, i},
                     narrow ? dy_narrow : dy,
                     gradients + at});
      ups.back().up.most_rows = most_rows;
      matrices.push_back(
          {.from = at, .rows = ups.back().up.out, .columns = rank_, .to = i * 2 * rank_ * out_});
    }
    if (copies) {
      bf16* const copied = upload(std::vector<bf16>(static_cast<size_t>(docs * copies_stride),
                                                    bf16(std::numeric_limits<float>::quiet_NaN())));
      copy_adapters(device_, matrices,
                    {.docs = docs,
                     .adapters = pairs,
                     .stride = stride(),
                     .copies = copied,
                     .copies_stride = copies_stride});
      for (size_t i = 0; i < ups.size(); ++i) {
        ups[i].up.copies.matrix = copied + matrices[i].to;
        ups[i].up.copies.stride = copies_stride;
      }
    }
    low_rank_ups_backward<T>(device_, ups, xa, dxa_of_all);
    linear_adapted<T>(device_, x, w, sum, {up, xa}, sum);
    linear_adapted_backward_input<T>(device_, dy, w, {down, dxa}, dsum);
    return {
        {bytes(xa.data, rows * width), bytes(y.data, rows * out_), bytes(dxa.data, rows * width),
         bytes(dx.data, rows * kIn), bytes(sum.data, rows * out_), bytes(dsum.data, rows * kIn),
         bytes(dxa_of_all.data, rows * width)},
        {bytes(gradient, docs * stride()), bytes(gradients, docs * stride())}};
  }

 private:
  int64_t stride() const { return rank_ * (kG * kIn + out_) + 8; }

  template <class U>
  U* upload(const std::vector<U>& host) {
    memory_.push_back(device_.allocate(host.size() * sizeof(U) + 16));
    device_.upload(memory_.back().data(), host.data(), host.size() * sizeof(U));
    return reinterpret_cast<U*>(memory_.back().data());
  }
  // Elements [from, from + n) of stream `stream`.
  template <class U>
  U* values(int64_t n, int64_t from, uint64_t stream) {
    const Philox rng(11, stream);
    std::vector<U> host;
    for (int64_t i = 0; i < n; ++i)
      host.push_back(U(static_cast<float>(rng.normal(static_cast<uint64_t>(from + i)) / 8)));
    return upload(host);
  }
  template <class U>
  std::string bytes(const U* data, int64_t n) {
    std::string host(static_cast<size_t>(n) * sizeof(U), '\0');
    device_.download(host.data(), data, host.size());
    return host;
  }

  Device& device_;
  int64_t rank_, out_;
  std::vector<typename Device::Buffer> memory_;
};

template <class Device, class T>
void expect_independent(Device& device, int64_t rank, const std::vector<int32_t>& starts,
                        int64_t out = 320) {
  Documents<Device, T> documents(device, rank, out);
  const auto all = documents.run(starts, 0);
  for (size_t doc = 0; doc + 1 < starts.size(); ++doc) {
    const auto one = documents.run({starts[doc], starts[doc + 1]}, static_cast<int64_t>(doc));
    const auto rows = static_cast<size_t>(starts.back() - starts.front());
    for (size_t i = 0; i < all.rows.size(); ++i) {
      const size_t row = all.rows[i].size() / rows;
      EXPECT_TRUE(one.rows[i] ==
                  all.rows[i].substr(static_cast<size_t>(starts[doc] - starts.front()) * row,
                                     one.rows[i].size()))
          << "rows of output " << i << ", document " << doc << ", rank " << rank;
    }
    for (size_t i = 0; i < all.docs.size(); ++i)
      EXPECT_TRUE(one.docs[i] == all.docs[i].substr(doc * one.docs[i].size(), one.docs[i].size()))
          << "gradients " << i << " of document " << doc << ", rank " << rank;
  }
}

// The third is longer than two chunks of a gradient's sum on a GPU; two are one chunk each.
const std::vector<int32_t> kLong{7, 44, 307, 4700, 4700, 4701}, kChunks{0, 2048, 2060, 4108};
// For adapters as wide as a vocabulary.
const std::vector<int32_t> kFewRows{3, 4, 36, 36, 67, 100, 400};
#if FAIRWAY_WITH_CUDA
// More documents than a GPU has room for at once: its blocks go on from one to the next.
std::vector<int32_t> many_documents(int docs) {
  std::vector<int32_t> starts{5};
  for (int i = 0; i < docs; ++i) starts.push_back(starts.back() + (i % 16 ? 37 * i % 150 : 700));
  return starts;
}
#endif

TEST(LowRank, DocumentsDoNotDependOnEachOther) {
  CpuDevice device(2);
  for (const int64_t rank : {5, 96}) expect_independent<CpuDevice, float>(device, rank, kLong);
}

#if FAIRWAY_WITH_CUDA
TEST(LowRank, DocumentsDoNotDependOnEachOtherOnGpu) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  CudaDevice device;
  for (const int64_t rank : {5, 16, 96})
    for (const auto& starts : {kLong, kChunks})
      expect_independent<CudaDevice, bf16>(device, rank, starts);
  for (const int64_t rank : {32, 96})
    expect_independent<CudaDevice, bf16>(device, rank, kFewRows, 2112);
  expect_independent<CudaDevice, bf16>(device, 16, many_documents(330), kIn);
  expect_independent<CudaDevice, bf16>(device, 96, many_documents(165), kIn);
  expect_independent<CudaDevice, float>(device, 5, kLong);
}

TEST(LowRank, CopiesOfBGiveTheSameBitsOnGpu) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  CudaDevice device;
  if (!reads_adapter_copies<bf16>(device)) GTEST_SKIP() << "no op reads copies here";
  for (const int64_t rank : {8, 40, 96})
    for (const int64_t out : {72, 264, 512})
      for (const auto& starts : {kLong, kChunks}) {
        Documents<CudaDevice, bf16> documents(device, rank, out);
        const auto own = documents.run(starts, 0), with = documents.run(starts, 0, true);
        EXPECT_TRUE(with.rows == own.rows && with.docs == own.docs)
            << "rank " << rank << ", " << out << " outputs";
      }
}
#endif

}  // namespace
}  // namespace fairway
