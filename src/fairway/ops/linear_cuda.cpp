#include <type_traits>

#include "fairway/device/cuda_device.h"
#include "fairway/device/cuda_matmul.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/ops/linear_weights_sm90.cuh"
#include "fairway/ops/transpose_cuda.h"

namespace fairway {

namespace {

// Whole boxes, and float4s of the gradients.
bool fits_sm90(const std::array<Tensor<const bf16>, 3>& dy,
               const std::array<Tensor<float>, 3>& dw) {
  for (size_t i = 0; i < 3; ++i)
    if (dy[i].size() == 0 || !cuda::widths_fit(dw[i].extent(1), dw[i].extent(0)) ||
        reinterpret_cast<uintptr_t>(dw[i].data) % 16 != 0)
      return false;
  return true;
}

// Widths that the Hopper kernels have tiles for.
bool fits_sm90(const LinearThree<bf16>& maps) {
  for (const auto& w : maps.w)
    if (!cuda::widths_fit(w.extent(1), w.extent(0))) return false;
  return true;
}

}  // namespace

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

template <class T>
void linear_add(CudaDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<const T> residual,
                Tensor<T> y) {
  const int64_t out = w.extent(0), in = w.extent(1), rows = x.size() / in;
  cuda_matmul<T, T>(device, {.m = rows, .n = out, .k = in, .rows_independent = true}, {x.data, in},
                    {w.data, in, /*transposed=*/true}, residual.data, y.data, out, 1.0f, 1.0f);
}

template <class T>
void linear_three_backward_input(CudaDevice& device, const LinearThree<T>& maps, Tensor<T> dx) {
  if constexpr (std::is_same_v<T, bf16>)
    if (device.capability() == 90 && fits_sm90(maps)) {
      const int64_t rows = dx.extent(0), in = dx.extent(1);
      const bf16* dy[3];
      int64_t out[3];
      for (size_t i = 0; i < 3; ++i) {
        dy[i] = maps.dy[i].data;
        out[i] = maps.w[i].extent(0);
      }
      const bf16* const w = cuda::transposed(device, maps.w, maps.w_transposed);
      cuda::linear_three_backward_input(device.stream(), dy, w, rows, in, out, dx.data);
      return;
    }
  for (size_t i = 0; i < 3; ++i) linear_backward_input<T>(device, maps.dy[i], maps.w[i], dx, i > 0);
}

template <class T>
void linear_three_backward_weight(CudaDevice& device, const std::array<Tensor<const T>, 3>& dy,
                                  Tensor<const T> x, const std::array<Tensor<Accum<T>>, 3>& dw) {
  if constexpr (std::is_same_v<T, bf16>)
    if (device.capability() == 90 && fits_sm90(dy, dw)) {
      cuda::WeightGradients g{};
      g.x = x.data;
      g.rows = x.extent(0);
      g.in = x.extent(1);
      for (size_t i = 0; i < 3; ++i) {
        g.dy[i] = dy[i].data;
        g.out[i] = dw[i].extent(0);
        g.dw[i] = dw[i].data;
      }
      const int slices = cuda::linear_three_backward_weight_slices(g, device.multiprocessors());
      auto* partial = reinterpret_cast<float*>(
          device.workspace(Workspace::hidden, cuda::weight_gradients_bytes(g, slices)));
      cuda::linear_three_backward_weight(device.stream(), g, slices, partial);
      return;
    }
  for (size_t i = 0; i < 3; ++i) linear_backward_weight<T>(device, dy[i], x, dw[i]);
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template void linear(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>, bool);          \
  template void linear_backward_input(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>,  \
                                      bool);                                                     \
  template void linear_add(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,       \
                           Tensor<T>);                                                           \
  template void linear_three_backward_input(CudaDevice&, const LinearThree<T>&, Tensor<T>);      \
  template void linear_backward_weight(CudaDevice&, Tensor<const T>, Tensor<const T>,            \
                                       Tensor<Accum<T>>);                                        \
  template void linear_three_backward_weight(CudaDevice&, const std::array<Tensor<const T>, 3>&, \
                                             Tensor<const T>,                                    \
                                             const std::array<Tensor<Accum<T>>, 3>&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
