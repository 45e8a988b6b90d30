// What the launches of all attention kernels share. Internal to ops/; for nvcc.
#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda {

// 1/√d
inline float softmax_scale(int d) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
}

// A grid with `per_tile` blocks for each entry of the list.
inline unsigned tile_blocks(const AttentionTiles& tiles, int per_tile) {
  return static_cast<unsigned>(tiles.entries) * static_cast<unsigned>(per_tile);
}

// The same memory under the type that nvcc's headers compute with.
template <class T>
using Storage = std::conditional_t<std::is_same_v<T, bf16>, __nv_bfloat16, T>;
template <class T>
const Storage<T>* storage(const T* p) {
  return reinterpret_cast<const Storage<T>*>(p);
}
template <class T>
Storage<T>* storage(T* p) {
  return reinterpret_cast<Storage<T>*>(p);
}

}  // namespace fairway::cuda
