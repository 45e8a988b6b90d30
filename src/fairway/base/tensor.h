// A view of a dense row-major array: a pointer and up to four extents. It owns nothing; memory
// comes from an Arena or a std::vector. Kernels take the raw pointer; the shape is for the layer
// above.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "fairway/base/check.h"

namespace fairway {

struct Shape {
  std::array<int64_t, 4> extent{1, 1, 1, 1};
  int rank = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) {
    check(extents.size() <= 4, "Shape: more than four extents");
    for (int64_t e : extents) extent[static_cast<size_t>(rank++)] = e;
  }
  int64_t size() const { return extent[0] * extent[1] * extent[2] * extent[3]; }
  int64_t operator[](int i) const { return extent[static_cast<size_t>(i)]; }
  bool operator==(const Shape&) const = default;
};

template <class T>
struct Tensor {
  T* data = nullptr;
  Shape shape;

  Tensor() = default;
  Tensor(T* pointer, Shape s) : data(pointer), shape(s) {}
  // Tensor<float> converts to Tensor<const float>.
  template <class U>
  requires std::is_same_v<const U, T> Tensor(Tensor<U> other)
      : data(other.data), shape(other.shape) {}

  int64_t size() const { return shape.size(); }
  int64_t extent(int i) const { return shape[i]; }
  explicit operator bool() const { return data != nullptr; }
  T& operator[](int64_t i) const { return data[i]; }
  T* begin() const { return data; }
  T* end() const { return data + size(); }

  // The i-th slice along the first extent: bank[i] of a [L, rows, cols] bank.
  Tensor slice(int64_t i) const {
    Shape s;
    s.rank = shape.rank - 1;
    int64_t stride = 1;
    for (int j = 1; j < shape.rank; ++j) {
      s.extent[static_cast<size_t>(j - 1)] = shape[j];
      stride *= shape[j];
    }
    return {data ? data + i * stride : nullptr, s};
  }
};

}  // namespace fairway
