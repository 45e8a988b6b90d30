// The MLP's activation f(z) = max(z, z/2)² and its slope on the CPU, and scratch for a tile of the
// hidden rows. Internal to ops/*_cpu.cpp.
#pragma once

#include <cstdint>

#include "fairway/device/cpu_device.h"
#include "fairway/ops/scalar.h"

namespace fairway {

// max(z, z/2) is z for z > 0 and z/2 below: no branch for float.
template <class T>
T leaky(T z) {
  return real_part(z) > 0 ? z : T(0.5f) * z;
}
template <class T>
T leaky_sq_slope(T z) {
  return real_part(z) > 0 ? T(2.0f) * z : T(0.5f) * z;
}

template <class T>
void leaky_sq_span(const T* z, int64_t n, T* f) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T l = leaky(z[i]);
    f[i] = l * l;
  }
}

// n elements of the calling thread's.
template <class T>
T* tile_scratch(CpuDevice& device, int slot, int64_t n) {
  return reinterpret_cast<T*>(device.thread_scratch(slot, static_cast<size_t>(n) * sizeof(T)));
}

}  // namespace fairway
