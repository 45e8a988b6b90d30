#include "fairway/device/cuda_device.h"
#include "fairway/device/cuda_matmul.h"
#include "fairway/ops/linear.h"

namespace fairway {

template <class T>
void linear(CudaDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<T> y,
            bool accumulate) {
  const int64_t out = w.extent(0), in = w.extent(1), rows = x.size() / in;
  cuda_matmul<T, T>(device, {.m = rows, .n = out, .k = in, .rows_independent = true}, {x.data, in},
                    {w.data, in, /*transposed=*/true}, y.data, out, 1.0f, accumulate ? 1.0f : 0.0f);
}

template <class T>
void linear_backward_input(CudaDevice& device, Tensor<const T> dy, Tensor<const T> w, Tensor<T> dx,
                           bool accumulate) {
  const int64_t out = w.extent(0), in = w.extent(1), rows = dy.size() / out;
  cuda_matmul<T, T>(device, {.m = rows, .n = in, .k = out, .rows_independent = true},
                    {dy.data, out}, {w.data, in}, dx.data, in, 1.0f, accumulate ? 1.0f : 0.0f);
}

template <class T>
void linear_backward_weight(CudaDevice& device, Tensor<const T> dy, Tensor<const T> x,
                            Tensor<Accum<T>> dw) {
  const int64_t out = dw.extent(0), in = dw.extent(1), rows = x.size() / in;
  cuda_matmul<T, Accum<T>>(device, {.m = out, .n = in, .k = rows},
                           {dy.data, out, /*transposed=*/true}, {x.data, in}, dw.data, in, 1.0f,
                           1.0f);
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void linear(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>, bool);         \
  template void linear_backward_input(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>, \
                                      bool);                                                    \
  template void linear_backward_weight(CudaDevice&, Tensor<const T>, Tensor<const T>,           \
                                       Tensor<Accum<T>>);
FAIRWAY_INSTANTIATE(float)
FAIRWAY_INSTANTIATE(bf16)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
