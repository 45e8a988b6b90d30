// The type that sums, statistics, vectors and gradients are kept in beside elements of type T:
// float beside bf16, T itself otherwise.
#pragma once

#include "fairway/base/bf16.h"

namespace fairway {

template <class T>
struct AccumType {
  using type = T;
};
template <>
struct AccumType<bf16> {
  using type = float;
};
template <class T>
struct AccumType<const T> {
  using type = const typename AccumType<T>::type;
};

template <class T>
using Accum = typename AccumType<T>::type;

}  // namespace fairway
