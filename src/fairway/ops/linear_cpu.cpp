#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear.h"

namespace fairway {

template <class T>
void linear(CpuDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<T> y, bool accumulate) {
  const int64_t out = w.extent(0), in = w.extent(1), rows = x.size() / in;
  with_product_type<T>(device, [&]<class In>(In) {
    const In* weight = as_inputs<In>(device, kSlotWeightA, w.data, w.size());
    for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
      rows_times<In>(device, end - begin, out, in, x.data + begin * in, mat_t(weight, in),
                     y.data + begin * out, accumulate);
    });
  });
}

template <class T>
void linear_backward_input(CpuDevice& device, Tensor<const T> dy, Tensor<const T> w, Tensor<T> dx,
                           bool accumulate) {
  const int64_t out = w.extent(0), in = w.extent(1), rows = dy.size() / out;
  with_product_type<T>(device, [&]<class In>(In) {
    const In* weight = as_inputs<In>(device, kSlotWeightA, w.data, w.size());
    for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
      rows_times<In>(device, end - begin, in, out, dy.data + begin * out, mat(weight, in),
                     dx.data + begin * in, accumulate);
    });
  });
}

template <class T>
void linear_backward_weight(CpuDevice& device, Tensor<const T> dy, Tensor<const T> x,
                            Tensor<T> dw) {
  const int64_t out = dw.extent(0), in = dw.extent(1), rows = x.size() / in;
  with_product_type<T>(device, [&]<class In>(In) {
    const In* a = as_padded_inputs<In>(device, kSlotRowsA, dy.data, rows, out);
    const In* b = as_padded_inputs<In>(device, kSlotRowsB, x.data, rows, in);
    weight_gradient(device, rows, out, in, a, b, dw.data);
  });
}

template <class T>
void linear_add(CpuDevice& device, Tensor<const T> x, Tensor<const T> w, Tensor<const T> residual,
                Tensor<T> y) {
  if (residual.data != y.data)
    for_each_block(device, y.size(), [&](int64_t begin, int64_t n) {
      std::copy_n(residual.data + begin, n, y.data + begin);
    });
  linear<T>(device, x, w, y, true);
}

template <class T>
void linear_three_backward_input(CpuDevice& device, const LinearThree<T>& maps, Tensor<T> dx) {
  for (size_t i = 0; i < 3; ++i) linear_backward_input<T>(device, maps.dy[i], maps.w[i], dx, i > 0);
}

template <class T>
void linear_three_backward_weight(CpuDevice& device, const std::array<Tensor<const T>, 3>& dy,
                                  Tensor<const T> x, const std::array<Tensor<T>, 3>& dw) {
  for (size_t i = 0; i < 3; ++i) linear_backward_weight<T>(device, dy[i], x, dw[i]);
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template void linear(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>, bool);           \
  template void linear_backward_input(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>,   \
                                      bool);                                                     \
  template void linear_add(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,        \
                           Tensor<T>);                                                           \
  template void linear_three_backward_input(CpuDevice&, const LinearThree<T>&, Tensor<T>);       \
  template void linear_backward_weight(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>); \
  template void linear_three_backward_weight(CpuDevice&, const std::array<Tensor<const T>, 3>&,  \
                                             Tensor<const T>, const std::array<Tensor<T>, 3>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
