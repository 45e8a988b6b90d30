// The shape of every flat elementwise kernel on CUDA: four elements a thread at a time where the
// arrays are aligned, one at a time at the end. Internal to ops/; for nvcc.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/base/bf16_cuda.cuh"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"

namespace fairway {

__device__ inline float load_element(const float* p) {
  return *p;
}
__device__ inline float load_element(const bf16* p) {
  return __uint_as_float(static_cast<uint32_t>(p->bits) << 16);
}
__device__ inline void store_element(float* p, float x) {
  *p = x;
}
// Rounds to nearest, ties to even.
__device__ inline void store_element(bf16* p, float x) {
  p->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

__device__ inline float4 load_four(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ inline float4 load_four(const bf16* p) {
  const uint2 u = *reinterpret_cast<const uint2*>(p);
  const float2 first = unpack_bf16(u.x), second = unpack_bf16(u.y);
  return {first.x, first.y, second.x, second.y};
}
__device__ inline void store_four(float* p, float4 v) {
  *reinterpret_cast<float4*>(p) = v;
}
__device__ inline void store_four(bf16* p, float4 v) {
  *reinterpret_cast<uint2*>(p) = uint2{pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}

// How a kernel uses an array: `const T*` reads, `T*` reads and writes, `Write<T>` writes only.
template <class T>
struct Write {
  T* data;
};

// Whether four elements from the beginning of the array are one aligned access.
template <class T>
inline bool four_aligned(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T)) == 0;
}
template <class T>
inline bool four_aligned(Write<T> w) {
  return four_aligned(w.data);
}

// One or four elements of an array, in registers while a kernel works on them.
template <class Array>
struct Lanes;

template <class T>
struct Lanes<const T*> {
  float4 v{};
  __device__ void load_one(const T* p, int64_t i) { v.x = load_element(p + i); }
  __device__ void load(const T* p, int64_t i) { v = load_four(p + i); }
  __device__ void save_one(const T*, int64_t) const {}
  __device__ void save(const T*, int64_t) const {}
};

template <class T>
struct Lanes<T*> {
  float4 v{};
  __device__ void load_one(const T* p, int64_t i) { v.x = load_element(p + i); }
  __device__ void load(const T* p, int64_t i) { v = load_four(p + i); }
  __device__ void save_one(T* p, int64_t i) const { store_element(p + i, v.x); }
  __device__ void save(T* p, int64_t i) const { store_four(p + i, v); }
};

template <class T>
struct Lanes<Write<T>> {
  float4 v{};
  __device__ void load_one(Write<T>, int64_t) {}
  __device__ void load(Write<T>, int64_t) {}
  __device__ void save_one(Write<T> w, int64_t i) const { store_element(w.data + i, v.x); }
  __device__ void save(Write<T> w, int64_t i) const { store_four(w.data + i, v); }
};

template <class F, class... Array>
__device__ void map_one(const F& f, int64_t i, Array... array) {
  [&](Lanes<Array>... lanes) {
    (lanes.load_one(array, i), ...);
    f(lanes.v.x...);
    (lanes.save_one(array, i), ...);
  }(Lanes<Array>{}...);
}

template <class F, class... Array>
__device__ void map_four(const F& f, int64_t i, Array... array) {
  [&](Lanes<Array>... lanes) {
    (lanes.load(array, i), ...);
    f(lanes.v.x...);
    f(lanes.v.y...);
    f(lanes.v.z...);
    f(lanes.v.w...);
    (lanes.save(array, i), ...);
  }(Lanes<Array>{}...);
}

inline constexpr int kMapThreads = 256;

template <bool kFours, class F, class... Array>
__global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t n, F f, Array... array) {
  const int64_t first = int64_t{blockIdx.x} * kMapThreads + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * kMapThreads;
  const int64_t fours = kFours ? n / 4 : 0;
  for (int64_t i = first; i < fours; i += stride) map_four(f, 4 * i, array...);
  for (int64_t i = 4 * fours + first; i < n; i += stride) map_one(f, i, array...);
}

// f(x…) for elements 0 … n − 1 of the arrays, as floats; those that are written are passed by
// reference. `f` is a plain struct with a __device__ operator() const.
template <class F, class... Array>
void map_elements(CudaDevice& device, const char* name, int64_t n, const F& f, Array... array) {
  if (n <= 0) return;
  constexpr int64_t kBlocksPerMultiprocessor = 16;  // about two rounds at full occupancy
  const bool fours = (four_aligned(array) && ...);
  const int64_t tasks = fours ? (n + 3) / 4 : n;
  const int64_t blocks = std::min((tasks + kMapThreads - 1) / kMapThreads,
                                  kBlocksPerMultiprocessor * device.multiprocessors());
  const auto grid = static_cast<unsigned>(blocks);
  if (fours)
    map_kernel<true><<<grid, kMapThreads, 0, device.stream()>>>(n, f, array...);
  else
    map_kernel<false><<<grid, kMapThreads, 0, device.stream()>>>(n, f, array...);
  cuda_check_launch(name);
}

// The sum of `value` over a block of kThreads threads, in a fixed order; valid in thread 0. Every
// thread of the block calls it; `scratch` holds kThreads / 32 elements.
template <int kThreads>
__device__ double block_sum(double value, double* scratch) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}

// This thread's share of the sum of term(v) over x[0 … n): every kThreads-th group of four.
template <int kThreads, class Term>
__device__ double thread_sum(int64_t n, const float* x, const Term& term) {
  double sum = 0;
  int64_t tail = 0;
  if (reinterpret_cast<uintptr_t>(x) % sizeof(float4) == 0) {
    tail = n / 4 * 4;
    for (int64_t i = 4 * int64_t{threadIdx.x}; i < tail; i += 4 * kThreads) {
      const float4 v = load_four(x + i);
      sum += term(v.x);
      sum += term(v.y);
      sum += term(v.z);
      sum += term(v.w);
    }
  }
  for (int64_t i = tail + threadIdx.x; i < n; i += kThreads) sum += term(x[i]);
  return sum;
}

struct Square {
  __device__ double operator()(float x) const {
    return static_cast<double>(x) * static_cast<double>(x);
  }
};

}  // namespace fairway
