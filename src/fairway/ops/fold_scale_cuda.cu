// A warp per row of the matrix.
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/fold_scale.h"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;

template <class T, int kVec>
__global__ __launch_bounds__(kRowThreads) void fold_kernel(const T* w, const float* scale,
                                                           int64_t rows, int64_t cols, T* scaled) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const float s = scale[row];
  for_packs<kVec, 0>(cols, lane, [&](int, int64_t j) {
    float v[kVec];
    load<kVec>(w + row * cols + j, v);
#pragma unroll
    for (int i = 0; i < kVec; ++i) v[i] *= s;
    store<kVec>(scaled + row * cols + j, v);
  });
}

template <class T, int kVec>
__global__ __launch_bounds__(kRowThreads) void fold_backward_kernel(const float* dscaled,
                                                                    const T* w, const float* scale,
                                                                    int64_t rows, int64_t cols,
                                                                    float* dw, float* dscale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const float s = scale[row];
  float sum = 0;
  for_packs<kVec, 0>(cols, lane, [&](int, int64_t j) {
    const int64_t at = row * cols + j;
    float d[kVec], v[kVec], g[kVec];
    load<kVec>(dscaled + at, d);
    load<kVec>(w + at, v);
    load<kVec>(dw + at, g);
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      sum += d[i] * v[i];
      g[i] += s * d[i];
    }
    store<kVec>(dw + at, g);
  });
  sum = warp_sum(sum);
  if (lane == 0) dscale[row] += sum;
}

}  // namespace

template <class T>
void fold_scale(CudaDevice& device, Tensor<const T> w, Tensor<const Accum<T>> scale,
                Tensor<T> scaled) {
  const int64_t rows = scale.size(), cols = w.size() / rows;
  const dim3 blocks = grid(ceil_div(rows, kWarps));
  if (cols % kPack == 0 && aligned16(w.data, scaled.data))
    fold_kernel<T, kPack>
        <<<blocks, kRowThreads, 0, device.stream()>>>(w.data, scale.data, rows, cols, scaled.data);
  else
    fold_kernel<T, 1>
        <<<blocks, kRowThreads, 0, device.stream()>>>(w.data, scale.data, rows, cols, scaled.data);
  cuda_check_launch("fold_scale");
}

template <class T>
void fold_scale_backward(CudaDevice& device, Tensor<const Accum<T>> dscaled, Tensor<const T> w,
                         Tensor<const Accum<T>> scale, Tensor<Accum<T>> dw,
                         Tensor<Accum<T>> dscale) {
  const int64_t rows = scale.size(), cols = w.size() / rows;
  const dim3 blocks = grid(ceil_div(rows, kWarps));
  if (cols % kPack == 0 && aligned16(w.data, dscaled.data, dw.data))
    fold_backward_kernel<T, kPack><<<blocks, kRowThreads, 0, device.stream()>>>(
        dscaled.data, w.data, scale.data, rows, cols, dw.data, dscale.data);
  else
    fold_backward_kernel<T, 1><<<blocks, kRowThreads, 0, device.stream()>>>(
        dscaled.data, w.data, scale.data, rows, cols, dw.data, dscale.data);
  cuda_check_launch("fold_scale_backward");
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void fold_scale<T>(CudaDevice&, Tensor<const T>, Tensor<const Accum<T>>, Tensor<T>); \
  template void fold_scale_backward<T>(CudaDevice&, Tensor<const Accum<T>>, Tensor<const T>,    \
                                       Tensor<const Accum<T>>, Tensor<Accum<T>>,                \
                                       Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
