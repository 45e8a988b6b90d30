// Copies of adapters, made with and without a step, against what they are said to be; row tiles.
#include "fairway/ops/adapter_copies.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/device/run_types.h"

namespace fairway {
namespace {

// Two adapters' matrices around the kernel's tiles, between gaps: A transposed with another's
// beside it, A both ways, B with a scale, one of many tiles, one that has no copy. Rows of `scale`
// may be more than those of a matrix.
struct Places {
  std::vector<AdapterMatrix> matrices;
  int64_t size = 0, copies_size = 0;

  explicit Places(const float* scale) {
    const auto add = [&](int64_t rows, int64_t columns, bool scaled, bool copied, int64_t pitch) {
      AdapterMatrix m{.from = size, .rows = rows, .columns = columns};
      size += rows * columns + 8;
      if (scaled) m.scale = scale;
      if (copied) {
        m.to = copies_size;
        copies_size += rows * columns + 8;
      }
      if (pitch > 0) {
        m.transposed = copies_size;
        m.pitch = pitch;
        copies_size += columns * pitch + 8;
      }
      matrices.push_back(m);
    };
    add(96, 136, false, false, 104);
    add(40, 64, false, true, 40);
    add(200, 96, true, true, 0);
    add(520, 8, true, true, 0);
    add(264, 96, false, false, 0);
  }
};

template <class Device>
class Copies {
 public:
  explicit Copies(Device& device) : device_(device) {}

  // After `steps` steps, or with none the copies alone.
  void check(int steps, int64_t repeats) {
    const auto* scale = upload(values(520, 0));
    Places places(scale);
    // More matrices than one launch has room for.
    const size_t one = places.matrices.size();
    const int64_t size = places.size, copies_size = places.copies_size;
    for (int64_t i = 1; i < repeats; ++i)
      for (size_t j = 0; j < one; ++j) {
        AdapterMatrix m = places.matrices[j];
        m.from += i * size;
        if (m.to >= 0) m.to += i * copies_size;
        if (m.transposed >= 0) m.transposed += i * copies_size;
        places.matrices.push_back(m);
      }
    const int64_t stride = repeats * size + 8, copies_stride = repeats * copies_size + 16;
    const auto w = values(kDocs * stride, 1);
    auto g = values(kDocs * stride, 2);
    std::vector<bf16> gradients;
    for (float& x : g) x = static_cast<float>(gradients.emplace_back(x));
    auto v = values(kDocs * stride, 3);
    for (float& x : v) x *= x;
    constexpr uint16_t kUntouched = 0x4F4F;
    std::vector<bf16> copies(static_cast<size_t>(kDocs * copies_stride));
    for (bf16& x : copies) x.bits = kUntouched;
    // The last document takes no part.
    const AdapterBuffers buffers{.docs = kDocs - 1,
                                 .adapters = upload(w),
                                 .stride = stride,
                                 .copies = upload(copies),
                                 .copies_stride = copies_stride,
                                 .gradients = upload(gradients),
                                 .second = upload(v)};
    const auto step_of = [](int t) { return AdamW{1e-2, 0, 0.9, 1e-8, 0.1, t}; };
    if (steps == 0) copy_adapters(device_, places.matrices, buffers);
    for (int t = 1; t <= steps; ++t)
      adamw_with_copies(device_, places.matrices, buffers, step_of(t));
    const auto got_w = download(buffers.adapters, w.size());
    const auto got_v = download(buffers.second, v.size());
    const auto got = download(buffers.copies, copies.size());

    // Elements that no matrix has keep what they held.
    std::vector<float> want_w = w, want_v = v;
    std::vector<uint16_t> want(copies.size(), kUntouched);
    const auto host_scale = values(520, 0);
    for (int64_t doc = 0; doc < kDocs - 1; ++doc)
      for (const AdapterMatrix& m : places.matrices)
        for (int64_t row = 0; row < m.rows; ++row)
          for (int64_t column = 0; column < m.columns; ++column) {
            const auto i = static_cast<size_t>(doc * stride + m.from + row * m.columns + column);
            double x = w[i], second = v[i];
            for (int t = 1; t <= steps; ++t) {
              const AdamW step = step_of(t);
              second = step.beta2 * second + (1 - step.beta2) * g[i] * g[i];
              x = x * (1 - step.lr * step.weight_decay) -
                  step.lr * g[i] / (std::sqrt(second / (1 - std::pow(step.beta2, t))) + step.eps);
            }
            want_w[i] = static_cast<float>(x);
            want_v[i] = static_cast<float>(second);
            // Of what the device wrote: to the bit.
            const bf16 copy(got_w[i] * (m.scale ? host_scale[static_cast<size_t>(row)] : 1.0f));
            const int64_t to = doc * copies_stride;
            if (m.to >= 0)
              want[static_cast<size_t>(to + m.to + row * m.columns + column)] = copy.bits;
            if (m.transposed >= 0)
              want[static_cast<size_t>(to + m.transposed + column * m.pitch + row)] = copy.bits;
          }
    for (size_t i = 0; i < w.size(); ++i) {
      // A step rounds thrice, and its factors; what it subtracts is below 0.05. Doubled.
      const double unit = 2 * steps * 0x1p-24;
      ASSERT_NEAR(got_w[i], want_w[i], unit * (3 * std::abs(want_w[i]) + 1))
          << "adapters, element " << i;
      ASSERT_NEAR(got_v[i], want_v[i], unit * 4 * want_v[i]) << "second moments, element " << i;
    }
    for (size_t i = 0; i < want.size(); ++i)
      ASSERT_EQ(got[i].bits, want[i]) << "copies, element " << i;
  }

 private:
  static constexpr int64_t kDocs = 4;

  static std::vector<float> values(int64_t n, uint64_t stream) {
    const Philox rng(5, stream);
    std::vector<float> host;
    for (int64_t i = 0; i < n; ++i)
      host.push_back(static_cast<float>(rng.normal(static_cast<uint64_t>(i))));
    return host;
  }
  template <class U>
  U* upload(const std::vector<U>& host) {
    memory_.push_back(device_.allocate(host.size() * sizeof(U)));
    device_.upload(memory_.back().data(), host.data(), host.size() * sizeof(U));
    return reinterpret_cast<U*>(memory_.back().data());
  }
  template <class U>
  std::vector<U> download(const U* data, size_t n) {
    std::vector<U> host(n);
    device_.download(host.data(), data, n * sizeof(U));
    return host;
  }

  Device& device_;
  std::vector<typename Device::Buffer> memory_;
};

TEST(AdapterCopies, AreTheAdaptersRounded) {
  CpuDevice device(2);
  for (const int steps : {0, 1, 3}) Copies<CpuDevice>(device).check(steps, 1);
}

#if FAIRWAY_WITH_CUDA
TEST(AdapterCopies, AreTheAdaptersRoundedOnGpu) {
  if (!cuda_available()) GTEST_SKIP() << "no GPU here";
  CudaDevice device;
  for (const int steps : {0, 1, 3}) Copies<CudaDevice>(device).check(steps, 1);
  Copies<CudaDevice>(device).check(1, 41);
}
#endif

TEST(AdapterRowTiles, BeginAnewAtEachDocument) {
  using Tiles = std::vector<int32_t>;
  // 300 rows of 4 documents can have 6 tiles: four have rows.
  EXPECT_EQ(adapter_row_tiles(Tiles{7, 7, 136, 136, 307}),
            (Tiles{0, 128, 1,  0, 128, 129, 1,  0, 129, 257, 3, 0, 257, 300, 3, 0,  //
                   0, 0,   -1, 0, 0,   0,   -1, 0}));
  EXPECT_EQ(adapter_row_tiles(Tiles{0, 5, 6, 7}),
            (Tiles{0, 5, 0, 0, 5, 6, 1, 0, 6, 7, 2, 0, 0, 0, 0, 0}));
  EXPECT_EQ(adapter_row_tiles(Tiles{0, 0}), (Tiles{0, 0, -1, 0, 0, 0, -1, 0}));
  EXPECT_EQ(num_adapter_row_tiles(300, 4), 6);
}

}  // namespace
}  // namespace fairway
