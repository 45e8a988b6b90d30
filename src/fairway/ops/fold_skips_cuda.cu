// A thread an element of w: few of them, once a step.
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/fold_skips.h"

namespace fairway {

namespace {

struct Gate {
  float g, keep;
};
__device__ __forceinline__ Gate gate_at(const float* gate, int64_t i) {
  if (gate == nullptr) return {1.0f, 1.0f};
  const float g = 1.0f / (1.0f + expf(-gate[i]));
  return {g, 1.0f - g};
}

__global__ __launch_bounds__(kRowThreads) void fold_kernel(const float* w, const float* gate,
                                                           int64_t n, int64_t D, float* skip) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= n) return;
  const auto [g, keep] = gate_at(gate, i);
  float* to = skip + i / D * 2 * D + i % D;
  to[0] = g;
  to[D] = keep * w[i];
}

__global__ __launch_bounds__(kRowThreads) void fold_backward_kernel(const float* dskip,
                                                                    const float* w,
                                                                    const float* gate, int64_t n,
                                                                    int64_t D, float* dw,
                                                                    float* dgate) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= n) return;
  const auto [g, keep] = gate_at(gate, i);
  const float* d = dskip + i / D * 2 * D + i % D;
  dw[i] += keep * d[D];
  if (gate != nullptr) dgate[i] += g * keep * (d[0] - w[i] * d[D]);
}

}  // namespace

template <class T>
void fold_skips(CudaDevice& device, Tensor<const Accum<T>> w, Tensor<const Accum<T>> gate,
                Tensor<Accum<T>> skip) {
  const int64_t n = w.size();
  if (n == 0) return;
  fold_kernel<<<grid(ceil_div(n, kRowThreads)), kRowThreads, 0, device.stream()>>>(
      w.data, gate.data, n, w.extent(1), skip.data);
  cuda_check_launch("fold_skips");
}

template <class T>
void fold_skips_backward(CudaDevice& device, Tensor<const Accum<T>> dskip, Tensor<const Accum<T>> w,
                         Tensor<const Accum<T>> gate, Tensor<Accum<T>> dw, Tensor<Accum<T>> dgate) {
  const int64_t n = w.size();
  if (n == 0) return;
  fold_backward_kernel<<<grid(ceil_div(n, kRowThreads)), kRowThreads, 0, device.stream()>>>(
      dskip.data, w.data, gate.data, n, w.extent(1), dw.data, dgate.data);
  cuda_check_launch("fold_skips_backward");
}

#define FAIRWAY_INSTANTIATE(T)                                                             \
  template void fold_skips<T>(CudaDevice&, Tensor<const Accum<T>>, Tensor<const Accum<T>>, \
                              Tensor<Accum<T>>);                                           \
  template void fold_skips_backward<T>(CudaDevice&, Tensor<const Accum<T>>,                \
                                       Tensor<const Accum<T>>, Tensor<const Accum<T>>,     \
                                       Tensor<Accum<T>>, Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
