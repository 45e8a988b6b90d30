// Random tensors for tests, reproducible.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/base/tensor.h"

namespace fairway::testing {

inline std::vector<float> random_floats(int64_t n, uint64_t seed, uint64_t stream,
                                        double size = 1.0) {
  const Philox rng(seed, stream);
  std::vector<float> out(static_cast<size_t>(n));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(size * rng.normal(i));
  return out;
}

// Values that fit float exactly, so that the float and the double run of an op start from the same
// ones.
inline std::vector<double> random_doubles(int64_t n, uint64_t stream, double size = 1.0) {
  const auto floats = random_floats(n, 11, stream, size);
  return {floats.begin(), floats.end()};
}

// A tensor that owns its memory, with sentinels behind it: `intact()` says whether they still
// stand.
template <class T>
class Owned {
 public:
  Owned(Shape shape, T value = T{}) : shape_(shape), data_(count(), value) { guard(); }
  Owned(Shape shape, const std::vector<double>& values)
      : shape_(shape), data_(values.begin(), values.end()) {
    guard();
  }
  Tensor<T> view() { return {data_.data(), shape_}; }
  Tensor<const T> cview() const { return {data_.data(), shape_}; }
  T operator[](size_t i) const { return data_[i]; }
  T& operator[](size_t i) { return data_[i]; }
  size_t size() const { return count(); }
  bool intact() const {
    for (size_t i = 0; i < kGuard; ++i)
      if (data_[count() + i] != T(kSentinel)) return false;
    return true;
  }
  bool same_bits(const Owned& other) const {
    return std::equal(data_.begin(), data_.end(), other.data_.begin(), other.data_.end());
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr float kSentinel = 12345.0f;
  size_t count() const { return static_cast<size_t>(shape_.size()); }
  void guard() { data_.resize(count() + kGuard, T(kSentinel)); }
  Shape shape_;
  std::vector<T> data_;
};

// Largest |a − b|, and ‖a − b‖/‖b‖.
struct Difference {
  double largest = 0, relative = 0;
};
template <class A, class B>
Difference difference(const Owned<A>& a, const Owned<B>& b) {
  double sum = 0, norm = 0;
  Difference d;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    d.largest = std::max(d.largest, std::fabs(e));
    sum += e * e;
    norm += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  d.relative = std::sqrt(sum / (norm > 0 ? norm : 1));
  return d;
}

}  // namespace fairway::testing
