// bf16 on Hopper: one product, whose epilogue does the rest. Elsewhere, step by step.
#include <type_traits>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear_xsa.h"
#include "fairway/ops/linear_xsa_sm90.cuh"
#include "fairway/ops/transpose_cuda.h"

namespace fairway {

template <class T>
void linear_xsa_backward(CudaDevice& device, Tensor<const T> dout, Tensor<const T> w,
                         Tensor<const T> y2, Tensor<const T> v, Tensor<const Accum<T>> y_dot_v,
                         Tensor<T> dy, Tensor<T> dv, Tensor<Accum<T>> delta,
                         Tensor<const int32_t> picked, Tensor<const T> given_transposed) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t rows = y2.extent(0), heads = y2.extent(1), kv_heads = v.extent(1);
    const int64_t width = w.extent(0);
    if (rows > 0 && !picked && device.capability() == 90 &&
        cuda::linear_xsa_backward_fits(width, heads, kv_heads, y2.extent(2))) {
      const bf16* const w_transposed = cuda::transposed<1>(device, {w}, given_transposed);
      cuda::linear_xsa_backward(device.stream(), {.dout = dout.data,
                                                  .w_transposed = w_transposed,
                                                  .y2 = y2.data,
                                                  .v = v.data,
                                                  .y_dot_v = y_dot_v.data,
                                                  .rows = rows,
                                                  .width = width,
                                                  .heads = heads,
                                                  .kv_heads = kv_heads,
                                                  .dy = dy.data,
                                                  .dv = dv.data,
                                                  .delta = delta.data});
      return;
    }
  }
  linear_xsa_backward_steps<T>(device, dout, w, y2, v, y_dot_v, dy, dv, delta, picked);
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void linear_xsa_backward(CudaDevice&, Tensor<const T>, Tensor<const T>,                 \
                                    Tensor<const T>, Tensor<const T>, Tensor<const Accum<T>>,      \
                                    Tensor<T>, Tensor<T>, Tensor<Accum<T>>, Tensor<const int32_t>, \
                                    Tensor<const T>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
