// The MLP from plain products and an elementwise pass over the hidden rows.
#include "fairway/device/cuda_device.h"
#include "fairway/ops/leaky_sq_cuda.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway {

namespace {
constexpr int kHiddenSlot = 4;  // of CudaDevice::workspace

// [rows, width] in the device's workspace.
template <class T>
Tensor<T> hidden_workspace(CudaDevice& device, int64_t rows, int64_t width) {
  const auto bytes = static_cast<size_t>(rows * width) * sizeof(T);
  return {reinterpret_cast<T*>(device.workspace(kHiddenSlot, bytes)), {rows, width}};
}
}  // namespace

template <class T>
void mlp_leaky_sq(CudaDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<T> z, Tensor<T> m) {
  const Tensor<T> hidden = hidden_workspace<T>(device, n.extent(0), wup.extent(0));
  const Tensor<T> kept = z ? z : hidden;
  linear<T>(device, n, wup, kept, false);
  leaky_sq<T>(device, kept, hidden);
  linear<T>(device, hidden, wdown, m, false);
}

template <class T>
void mlp_leaky_sq_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           Tensor<const T> z, Tensor<const T> wup, Tensor<const T> wdown,
                           bool accumulate_dn, Tensor<T> dn, Tensor<Accum<T>> dwup,
                           Tensor<Accum<T>> dwdown, Tensor<T> hidden, Tensor<T> dz) {
  if (!dz) dz = hidden_workspace<T>(device, n.extent(0), wup.extent(0));
  if (dwdown) {
    leaky_sq<T>(device, z, hidden);
    linear_backward_weight<T>(device, dm, hidden, dwdown);
  }
  linear_backward_input<T>(device, dm, wdown, dz, false);
  leaky_sq_backward<T>(device, z.size(), z.data, dz.data);
  if (dwup) linear_backward_weight<T>(device, dz, n, dwup);
  linear_backward_input<T>(device, dz, wup, dn, accumulate_dn);
}

#define FAIRWAY_INSTANTIATE(T)                                                               \
  template void mlp_leaky_sq(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                             Tensor<T>, Tensor<T>);                                          \
  template void mlp_leaky_sq_backward(                                                       \
      CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, Tensor<const T>,       \
      Tensor<const T>, bool, Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>, Tensor<T>, Tensor<T>);
FAIRWAY_INSTANTIATE(float)
FAIRWAY_INSTANTIATE(bf16)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
