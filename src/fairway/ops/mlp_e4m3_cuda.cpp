// Operands of type T that hold the rounded values, between plain products and elementwise passes.
#include "fairway/ops/mlp_e4m3_cuda.h"

#include "fairway/device/cuda_device.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cuda.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/mlp_e4m3.h"

namespace fairway {

namespace {

constexpr int kHiddenSlot = 4, kRowsSlot = 6;  // of CudaDevice::workspace

// [rows, width] in a workspace of the device: one at a time.
template <class T>
Tensor<T> workspace(CudaDevice& device, int slot, int64_t rows, int64_t width) {
  const auto bytes = static_cast<size_t>(rows * width) * sizeof(T);
  return {reinterpret_cast<T*>(device.workspace(slot, bytes)), {rows, width}};
}

// [rows, width] of T and an exponent a row.
template <class T>
struct ScaledRows {
  Tensor<T> x;
  int32_t* exponents = nullptr;
};
template <class T>
ScaledRows<T> scaled_rows(CudaDevice& device, int64_t rows, int64_t width) {
  const size_t bytes = (static_cast<size_t>(rows * width) * sizeof(T) + 15) / 16 * 16;
  std::byte* const memory =
      device.workspace(kRowsSlot, bytes + static_cast<size_t>(rows) * sizeof(int32_t));
  return {{reinterpret_cast<T*>(memory), {rows, width}},
          reinterpret_cast<int32_t*>(memory + bytes)};
}

}  // namespace

template <class T>
void mlp_e4m3_weights(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                      std::span<const double> ln, const MlpE4m3<T>& to) {
  mlp_e4m3_exponents<T>(device, wup, wdown, ln, to.exponents);
  for (int64_t i = 0; i < wup.extent(0); ++i) {
    const MlpE4m3<T> layer = to.slice(i);
    const int32_t* const e = layer.exponents.data;
    round_rows_to_e4m3<T>(device, wup.slice(i), e + kE4m3Up, nullptr, layer.wup.data);
    round_rows_to_e4m3<T>(device, wdown.slice(i), e + kE4m3Down, nullptr, layer.wdown.data);
  }
}

template <class T>
void mlp_leaky_sq_e4m3(CudaDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  const int32_t* const e = w.exponents.data;
  const Tensor<T> in = workspace<T>(device, kRowsSlot, rows, D);
  round_rows_to_e4m3<T>(device, n, e + kE4m3N, nullptr, in.data);
  linear<T>(device, in, w.wup, hidden.z, false);
  const Tensor<T> f = workspace<T>(device, kHiddenSlot, rows, F);
  if constexpr (std::is_same_v<T, bf16>) {
    leaky_sq_with_signs(device, hidden.z.size(), hidden.z.data, hidden.signs.data);
    round_rows_to_e4m3<T>(device, hidden.z, e + kE4m3F, nullptr, f.data);
  } else {
    leaky_sq_values<T>(device, f.size(), hidden.z.data, f.data);
    round_rows_to_e4m3<T>(device, f, e + kE4m3F, nullptr, f.data);
  }
  linear_adapted<T>(device, f, w.wdown, residual, {}, y);
}

template <class T>
void mlp_leaky_sq_e4m3_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<Accum<T>> dwup, Tensor<Accum<T>> dwdown) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  const Tensor<T> hidden_rows = workspace<T>(device, kHiddenSlot, rows, F);
  const Tensor<T>& z = hidden.z;
  if constexpr (std::is_same_v<T, bf16>) {
    linear_backward_weight<T>(device, dm, z, dwdown);
  } else {
    leaky_sq_values<T>(device, z.size(), z.data, hidden_rows.data);
    linear_backward_weight<T>(device, dm, hidden_rows, dwdown);
  }
  const ScaledRows<T> scaled_dm = scaled_rows<T>(device, rows, D);
  e4m3_row_exponents<T>(device, dm, scaled_dm.exponents);
  round_rows_to_e4m3<T>(device, dm, nullptr, scaled_dm.exponents, scaled_dm.x.data);
  const Tensor<T>& dz = hidden_rows;  // df at first
  linear_backward_input<T>(device, scaled_dm.x, w.wdown, dz, false);
  if constexpr (std::is_same_v<T, bf16>)
    leaky_sq_backward_from_output(device, dz.size(), z.data, hidden.signs.data, dz.data);
  else
    leaky_sq_backward<T>(device, dz.size(), z.data, dz.data);
  linear_backward_weight<T>(device, dz, n, dwup);
  round_rows_to_e4m3<T>(device, dz, w.exponents.data + kE4m3Dz, scaled_dm.exponents, dz.data);
  linear_backward_input<T>(device, dz, w.wup, dn, false);
}

#define FAIRWAY_INSTANTIATE(T)                                                                \
  template void mlp_e4m3_weights(CudaDevice&, Tensor<const T>, Tensor<const T>,               \
                                 std::span<const double>, const MlpE4m3<T>&);                 \
  template void mlp_leaky_sq_e4m3(CudaDevice&, Tensor<const T>, const MlpE4m3<T>&,            \
                                  Tensor<const T>, const MlpHidden<T>&, Tensor<T>);           \
  template void mlp_leaky_sq_e4m3_backward(CudaDevice&, Tensor<const T>, Tensor<const T>,     \
                                           const MlpHidden<T>&, const MlpE4m3<T>&, Tensor<T>, \
                                           Tensor<Accum<T>>, Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
