#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/leaky_sq_cuda.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway {

namespace {

// max(z, z/2) is z for z > 0 and z/2 below: no branch. The same for f'(z) = max(2z, z/2).
struct LeakySq {
  static constexpr int kInputs = 1;
  __device__ float operator()(float z) const {
    const float l = fmaxf(z, 0.5f * z);
    return l * l;
  }
};
struct TimesSlope {
  static constexpr int kInputs = 2;
  __device__ float operator()(float d, float z) const { return d * fmaxf(2.0f * z, 0.5f * z); }
};

}  // namespace

template <class T>
void leaky_sq(CudaDevice& device, Tensor<const T> z, Tensor<T> f) {
  run_elementwise<T>(device, z.data, z.data, f.data, z.size(), LeakySq{}, "leaky_sq");
}

template <class T>
void leaky_sq_backward(CudaDevice& device, int64_t n, const T* z, T* dz) {
  run_elementwise<T>(device, dz, z, dz, n, TimesSlope{}, "leaky_sq_backward");
}

#define FAIRWAY_INSTANTIATE(T)                                        \
  template void leaky_sq<T>(CudaDevice&, Tensor<const T>, Tensor<T>); \
  template void leaky_sq_backward<T>(CudaDevice&, int64_t, const T*, T*);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
