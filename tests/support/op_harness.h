// Runs one op case on any device and element type. The same case, in double on the CPU, is the
// truth.
//
// Inputs are values that bf16 holds exactly, so that every run starts from the same numbers. Memory
// of outputs is followed by sentinels, and outputs that an op must write start as poison.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "fairway/base/accum.h"
#include "fairway/base/rng.h"
#include "fairway/base/tensor.h"

namespace fairway::testing {

inline double to_double(double x) {
  return x;
}
inline double to_double(bf16 x) {
  return static_cast<double>(static_cast<float>(x));
}

// What outputs that an op must write hold before it does.
inline constexpr double kPoison = 1e30;

// What a case leaves: an output, and how wrong it may be.
struct OpOutput {
  std::string name;
  std::vector<double> values;
  int roundings = 1;  // to the element type, on the way from the inputs
  int64_t terms = 1;  // of the longest sum
  int e4m3 = 0;       // roundings to e4m3 of what was rounded before
  bool intact = true;
};

template <class Device_, class T_>
class OpHarness {
 public:
  using Device = Device_;
  using T = T_;
  using A = Accum<T>;

  explicit OpHarness(Device& d) : device(d) {}
  Device& device;

  // Standard normal values times `size`, of element type T or of the accumulators' type.
  Tensor<const T> in(Shape shape, double size = 1) { return input<T>(shape, size, 0); }
  Tensor<const A> vec(Shape shape, double size = 1, double mean = 0) {
    return input<A>(shape, size, mean);
  }
  // Values that bf16 holds.
  Tensor<const T> given(Shape shape, const std::vector<double>& values) {
    return {place(converted<T>(values), 0), shape};
  }
  Tensor<const int32_t> ints(const std::vector<int32_t>& values) {
    return {place(values, 0), {std::ssize(values)}};
  }

  // Written by the op: starts as poison. `roundings`, `terms`, `e4m3`: see OpOutput.
  Tensor<T> out(const char* name, Shape shape, int roundings = 1, int64_t terms = 1, int e4m3 = 0) {
    return output<T>(name, shape, std::vector<double>(count(shape), kPoison), roundings, terms,
                     e4m3);
  }
  Tensor<A> out_vec(const char* name, Shape shape, int roundings = 0, int64_t terms = 1) {
    return output<A>(name, shape, std::vector<double>(count(shape), kPoison), roundings, terms);
  }
  Tensor<int32_t> out_ints(const char* name, Shape shape) {
    return output<int32_t>(name, shape, std::vector<double>(count(shape), -1), 0, 1);
  }
  // Added to, or changed in place: starts with values.
  Tensor<T> inout(const char* name, Shape shape, int roundings = 1, int64_t terms = 1,
                  int e4m3 = 0) {
    return output<T>(name, shape, values_of(shape, 1, 0), roundings, terms, e4m3);
  }
  Tensor<A> inout_vec(const char* name, Shape shape, int roundings = 0, int64_t terms = 1,
                      double size = 1, int e4m3 = 0) {
    return output<A>(name, shape, values_of(shape, size, 0), roundings, terms, e4m3);
  }

  // Memory that the op needs and nobody looks at.
  template <class U>
  Tensor<U> scratch(Shape shape) {
    return {place(std::vector<U>(count(shape), U(0.0f)), 0), shape};
  }

  std::vector<OpOutput> outputs() {
    std::vector<OpOutput> results;
    for (auto& fetch : fetchers_) results.push_back(fetch());
    return results;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr float kSentinel = 12352.0f;  // bf16 holds it

  static size_t count(Shape s) { return static_cast<size_t>(s.size()); }

  std::vector<double> values_of(Shape shape, double size, double mean) {
    const Philox rng(17, stream_++);
    std::vector<double> out(count(shape));
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = to_double(bf16(static_cast<float>(mean + size * rng.normal(i))));
    return out;
  }
  template <class U>
  static std::vector<U> converted(const std::vector<double>& values) {
    std::vector<U> out;
    for (double v : values) {
      if constexpr (std::is_same_v<U, bf16>)
        out.push_back(bf16(static_cast<float>(v)));
      else
        out.push_back(static_cast<U>(v));
    }
    return out;
  }
  template <class U>
  U* place(std::vector<U> values, size_t guard) {
    values.resize(values.size() + guard, U(static_cast<float>(kSentinel)));
    memory_.push_back(device.allocate(values.size() * sizeof(U) + 16));
    device.upload(memory_.back().data(), values.data(), values.size() * sizeof(U));
    return reinterpret_cast<U*>(memory_.back().data());
  }
  template <class U>
  Tensor<const U> input(Shape shape, double size, double mean) {
    return {place(converted<U>(values_of(shape, size, mean)), 0), shape};
  }
  template <class U>
  Tensor<U> output(const char* name, Shape shape, const std::vector<double>& start, int roundings,
                   int64_t terms, int e4m3 = 0) {
    U* data = place(converted<U>(start), kGuard);
    const size_t n = count(shape);
    fetchers_.push_back([=, this] {
      std::vector<U> host(n + kGuard);
      device.download(host.data(), data, host.size() * sizeof(U));
      OpOutput o{name, {}, roundings, terms, e4m3};
      for (size_t i = 0; i < n; ++i) o.values.push_back(to_double(host[i]));
      for (size_t i = n; i < host.size(); ++i) o.intact &= to_double(host[i]) == kSentinel;
      return o;
    });
    return {data, shape};
  }

  std::vector<typename Device::Buffer> memory_;
  std::vector<std::function<OpOutput()>> fetchers_;
  uint64_t stream_ = 0;
};

}  // namespace fairway::testing
