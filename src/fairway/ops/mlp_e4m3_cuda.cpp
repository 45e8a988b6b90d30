// bf16 on Hopper: products of e4m3 operands, whose epilogues make the next product's operands.
// Elsewhere, operands of type T that hold the rounded values, between plain products and
// elementwise passes.
#include "fairway/ops/mlp_e4m3_cuda.h"

#include "fairway/device/cuda_device.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cuda.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_norm_back_sm90.cuh"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_e4m3_sm90.cuh"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "fairway/ops/rms_norm_cuda.h"

namespace fairway {

namespace {

// [rows, width] in a workspace of the device: one at a time.
template <class T>
Tensor<T> workspace(CudaDevice& device, Workspace which, int64_t rows, int64_t width) {
  const auto bytes = static_cast<size_t>(rows * width) * sizeof(T);
  return {reinterpret_cast<T*>(device.workspace(which, bytes)), {rows, width}};
}

// [rows, width] of T and an exponent a row; behind them room for norm_back's rows and its sums of
// `dot_tiles` tiles of columns, where there are any.
template <class T>
struct ScaledRows {
  Tensor<T> x;
  int32_t* exponents;
  float* half_dots = nullptr;        // [dot_tiles, rows]
  cuda::NormBackRow* row = nullptr;  // [rows]
};
template <class T>
ScaledRows<T> scaled_rows(CudaDevice& device, int64_t rows, int64_t width, int64_t dot_tiles = 0) {
  const auto count = static_cast<size_t>(rows), tiles = static_cast<size_t>(dot_tiles);
  const size_t x = (count * static_cast<size_t>(width) * sizeof(T) + 15) / 16 * 16;
  const size_t row = tiles > 0 ? count * sizeof(cuda::NormBackRow) : 0;
  const size_t dots = tiles * count * sizeof(float);
  std::byte* const memory =
      device.workspace(Workspace::e4m3, x + row + dots + count * sizeof(int32_t));
  ScaledRows<T> s{{reinterpret_cast<T*>(memory), {rows, width}},
                  reinterpret_cast<int32_t*>(memory + x + row + dots)};
  if (tiles == 0) return s;
  s.row = reinterpret_cast<cuda::NormBackRow*>(memory + x);
  s.half_dots = reinterpret_cast<float*>(memory + x + row);
  return s;
}

// Hopper, and widths that its kernels have tiles for.
template <class T>
bool fits_sm90(const CudaDevice& device, int64_t D, int64_t F) {
  return std::is_same_v<T, bf16> && device.capability() == 90 && cuda::mlp_e4m3_fits(D, F);
}

// A matrix of MlpE4m3 as e4m3 bytes, and its transpose.
struct OperandPair {
  e4m3 *straight, *transposed;

  explicit OperandPair(Tensor<bf16> w)
      : straight(reinterpret_cast<e4m3*>(w.data)), transposed(straight + w.size()) {}
};

void weights_sm90(CudaDevice& device, Tensor<const bf16> wup, Tensor<const bf16> wdown,
                  const MlpE4m3<bf16>& to) {
  const int64_t L = wup.extent(0), F = wup.extent(1), D = wup.extent(2);
  const int32_t* const e = to.exponents.data;
  cuda::mlp_e4m3_operand_weights(device.stream(), wup.data, e, kE4m3Up, L, F, D,
                                 reinterpret_cast<e4m3*>(to.wup.data));
  cuda::mlp_e4m3_operand_weights(device.stream(), wdown.data, e, kE4m3Down, L, D, F,
                                 reinterpret_cast<e4m3*>(to.wdown.data));
}

// The forward pass from n as an operand.
void products_sm90(CudaDevice& device, Tensor<const e4m3> n, const MlpE4m3<bf16>& w,
                   Tensor<const bf16> residual, const MlpHidden<bf16>& hidden, Tensor<bf16> y) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  check(cuda::leaky_sq_sign_bytes(rows, F) <=
            static_cast<size_t>(hidden.signs.size()) * sizeof(uint32_t),
        "mlp_leaky_sq_e4m3: signs");
  const int32_t* const e = w.exponents.data;
  const Tensor<e4m3> f = workspace<e4m3>(device, Workspace::hidden, rows, F);
  cuda::mlp_e4m3_up(device.stream(), n.data, OperandPair(w.wup).straight, e, rows, D, F,
                    hidden.z.data, f.data, hidden.signs.data);
  cuda::mlp_e4m3_down(device.stream(), f.data, OperandPair(w.wdown).straight, e, residual.data,
                      rows, D, F, y.data);
}

void backward_sm90(CudaDevice& device, Tensor<const bf16> dm, Tensor<const bf16> n,
                   const MlpHidden<bf16>& hidden, const MlpE4m3<bf16>& w, Tensor<bf16> dn,
                   Tensor<float> dwup, Tensor<float> dwdown, const MlpNormBack<bf16>& norm,
                   const E4m3Rows& dm_rows) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  const int32_t* const e = w.exponents.data;
  linear_backward_weight<bf16>(device, dm, hidden.z, dwdown);
  const int64_t tiles = norm || dm_rows ? cuda::leaky_sq_dot_tiles(F) : 0;
  const ScaledRows<e4m3> in = scaled_rows<e4m3>(device, rows, D, tiles);
  const Tensor<e4m3> dz = workspace<e4m3>(device, Workspace::hidden, rows, F);
  check(!dm_rows || (dm_rows.x.data == in.x.data && dm_rows.exponents.data == in.exponents),
        "mlp_leaky_sq_e4m3_backward: another operand");
  if (!dm_rows)
    cuda::mlp_e4m3_operand_dm(device.stream(), dm.data, rows, D, in.x.data, in.exponents);
  cuda::mlp_e4m3_down_backward(device.stream(), in.x.data, in.exponents,
                               OperandPair(w.wdown).transposed, e, hidden.z.data, hidden.signs.data,
                               rows, D, F, hidden.z.data, dz.data, in.half_dots);
  linear_backward_weight<bf16>(device, hidden.z, n, dwup);
  const e4m3* const wup_transposed = OperandPair(w.wup).transposed;
  if (!norm) {
    cuda::mlp_e4m3_up_backward(device.stream(), dz.data, in.exponents, wup_transposed, e, rows, D,
                               F, dn.data);
    return;
  }
  const cuda::NormBackScales scales{.dy_rows = in.exponents, .dy = e + kE4m3Dz, .w = e + kE4m3Up};
  cuda::norm_back_rows(device.stream(),
                       {.half_dots = in.half_dots,
                        .tiles = tiles,
                        .rows = rows,
                        .in = D,
                        .xa = nullptr,
                        .dxa = nullptr,
                        .width = 0,
                        .rstd = norm.rstd.data,
                        .scale = norm.scale},
                       &scales, in.row);
  cuda::linear_norm_back<e4m3>(device.stream(), {.dy = dz.data,
                                                 .w_transposed = wup_transposed,
                                                 .n = n.data,
                                                 .row = in.row,
                                                 .dx = norm.dx.data,
                                                 .rows = rows,
                                                 .in = D,
                                                 .out = F});
}

}  // namespace

template <class T>
void mlp_e4m3_weights(CudaDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                      std::span<const double> ln, const MlpE4m3<T>& to) {
  mlp_e4m3_exponents<T>(device, wup, wdown, ln, to.exponents);
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90<T>(device, wup.extent(2), wup.extent(1))) {
      weights_sm90(device, wup, wdown, to);
      return;
    }
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
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90<T>(device, D, F)) {
      const Tensor<e4m3> in = workspace<e4m3>(device, Workspace::e4m3, rows, D);
      cuda::mlp_e4m3_operand_n(device.stream(), n.data, w.exponents.data, rows, D, in.data);
      products_sm90(device, in, w, residual, hidden, y);
      return;
    }
  const int32_t* const e = w.exponents.data;
  const Tensor<T> in = workspace<T>(device, Workspace::e4m3, rows, D);
  round_rows_to_e4m3<T>(device, n, e + kE4m3N, nullptr, in.data);
  linear<T>(device, in, w.wup, hidden.z, false);
  const Tensor<T> f = workspace<T>(device, Workspace::hidden, rows, F);
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
void norm_mlp_leaky_sq_e4m3(CudaDevice& device, Tensor<const T> x, double eps, double ln,
                            Tensor<Accum<T>> rstd, Tensor<T> n, const MlpE4m3<T>& w,
                            Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90<T>(device, D, F)) {
      const Tensor<e4m3> in = workspace<e4m3>(device, Workspace::e4m3, rows, D);
      rms_norm_e4m3(device, x, eps, ln, rstd, n, w.exponents.data + kE4m3N, in.data);
      products_sm90(device, in, w, residual, hidden, y);
      return;
    }
  norm_mlp_leaky_sq_e4m3_steps<T>(device, x, eps, ln, rstd, n, w, residual, hidden, y);
}

template <class T>
E4m3Rows mlp_e4m3_dm_rows(CudaDevice& device, int64_t rows, int64_t D, int64_t F) {
  if (!fits_sm90<T>(device, D, F)) return {};
  const auto in = scaled_rows<e4m3>(device, rows, D, cuda::leaky_sq_dot_tiles(F));
  return {in.x, {in.exponents, {rows}}};
}

template <class T>
void mlp_leaky_sq_e4m3_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<Accum<T>> dwup, Tensor<Accum<T>> dwdown,
                                const MlpNormBack<T>& norm, const E4m3Rows& dm_rows) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90<T>(device, D, F)) {
      backward_sm90(device, dm, n, hidden, w, dn, dwup, dwdown, norm, dm_rows);
      return;
    }
  check(!dm_rows, "mlp_leaky_sq_e4m3_backward: an operand that nobody reads");
  const Tensor<T> hidden_rows = workspace<T>(device, Workspace::hidden, rows, F);
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
  if (norm) rms_norm_backward<T>(device, dn, n, norm.rstd, norm.scale, norm.dx);
}

#define FAIRWAY_INSTANTIATE(T)                                                               \
  template void mlp_e4m3_weights(CudaDevice&, Tensor<const T>, Tensor<const T>,              \
                                 std::span<const double>, const MlpE4m3<T>&);                \
  template void mlp_leaky_sq_e4m3(CudaDevice&, Tensor<const T>, const MlpE4m3<T>&,           \
                                  Tensor<const T>, const MlpHidden<T>&, Tensor<T>);          \
  template void norm_mlp_leaky_sq_e4m3(CudaDevice&, Tensor<const T>, double, double,         \
                                       Tensor<Accum<T>>, Tensor<T>, const MlpE4m3<T>&,       \
                                       Tensor<const T>, const MlpHidden<T>&, Tensor<T>);     \
  template E4m3Rows mlp_e4m3_dm_rows<T>(CudaDevice&, int64_t, int64_t, int64_t);             \
  template void mlp_leaky_sq_e4m3_backward(                                                  \
      CudaDevice&, Tensor<const T>, Tensor<const T>, const MlpHidden<T>&, const MlpE4m3<T>&, \
      Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>, const MlpNormBack<T>&, const E4m3Rows&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
