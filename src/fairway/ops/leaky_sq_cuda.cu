#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/leaky_sq_cuda.cuh"
#include "fairway/ops/leaky_sq_cuda.h"

namespace fairway {

namespace {

struct LeakySq {
  __device__ void operator()(float z, float& f) const { f = leaky_sq_of(z); }
};
struct TimesSlope {
  __device__ void operator()(float& d, float z) const { d *= leaky_sq_slope_of(z); }
};

// A lane an element, a warp a word of signs.
__global__ __launch_bounds__(kRowThreads) void with_signs_kernel(int64_t n, bf16* z,
                                                                 uint32_t* signs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  const float v = i < n ? load_one(z + i) : 0.0f;
  const uint32_t word = __ballot_sync(kAllLanes, v > 0.0f);
  if (signs != nullptr && i % kWarp == 0 && i < n) signs[i / kWarp] = word;
  if (i < n) store_one(z + i, leaky_sq_of(v));
}

__global__ __launch_bounds__(kRowThreads) void from_output_kernel(int64_t n, const bf16* f,
                                                                  const uint32_t* signs, bf16* dz) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= n) return;
  const float root = sqrtf(load_one(f + i));
  const bool positive = (signs[i / kWarp] >> (i % kWarp)) & 1u;
  store_one(dz + i, load_one(dz + i) * (positive ? 2.0f * root : -root));
}

}  // namespace

template <class T>
void leaky_sq_values(CudaDevice& device, int64_t n, const T* z, T* f) {
  map_elements(device, "leaky_sq", n, LeakySq{}, z, Write<T>{f});
}

template <class T>
void leaky_sq_backward(CudaDevice& device, int64_t n, const T* z, T* dz) {
  map_elements(device, "leaky_sq_backward", n, TimesSlope{}, dz, z);
}

void leaky_sq_with_signs(CudaDevice& device, int64_t n, bf16* z, uint32_t* signs) {
  if (n == 0) return;
  with_signs_kernel<<<grid(ceil_div(n, kRowThreads)), kRowThreads, 0, device.stream()>>>(n, z,
                                                                                         signs);
  cuda_check_launch("leaky_sq_with_signs");
}

void leaky_sq_backward_from_output(CudaDevice& device, int64_t n, const bf16* f,
                                   const uint32_t* signs, bf16* dz) {
  if (n == 0) return;
  from_output_kernel<<<grid(ceil_div(n, kRowThreads)), kRowThreads, 0, device.stream()>>>(
      n, f, signs, dz);
  cuda_check_launch("leaky_sq_backward_from_output");
}

#define FAIRWAY_INSTANTIATE(T)                                          \
  template void leaky_sq_values<T>(CudaDevice&, int64_t, const T*, T*); \
  template void leaky_sq_backward<T>(CudaDevice&, int64_t, const T*, T*);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
