// bf16 on Hopper: products of e4m3 operands, whose epilogues make the next product's operands.
// Elsewhere, operands of type T that hold the rounded values, between plain products and
// elementwise passes.
#include "fairway/ops/mlp_e4m3_cuda.h"

#include "fairway/base/check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cuda.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_adapted_sm90.cuh"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_e4m3_sm90.cuh"
#include "fairway/ops/mlp_e4m3_weights_sm90.cuh"
#include "fairway/ops/mlp_leaky_sq_sm90.cuh"
#include "fairway/ops/mlp_norm_back_cuda.h"
#include "fairway/ops/rms_norm.h"
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
  const auto whole = [](size_t bytes) { return (bytes + 15) / 16 * 16; };
  const size_t x = whole(count * static_cast<size_t>(width) * sizeof(T));
  const size_t row = whole(tiles > 0 ? count * sizeof(cuda::NormBackRow) : 0);
  const size_t dots = whole(tiles * count * sizeof(float));
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
  return std::is_same_v<T, bf16> && device.capability() == 90 && mlp_e4m3_fits(D, F);
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
                   Tensor<const bf16> residual, const MlpHidden<bf16>& hidden, Tensor<bf16> y,
                   const LowRankAdded<bf16>& added) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  if (rows == 0) return;
  check(!hidden.z, "mlp_leaky_sq_e4m3: z is kept rounded here");
  const int32_t* const e = w.exponents.data;
  const Tensor<e4m3> f = hidden.f ? hidden.f : workspace<e4m3>(device, Workspace::hidden, rows, F);
  cuda::mlp_e4m3_up(device.stream(), n.data, OperandPair(w.wup).straight, e, rows, D, F, f.data,
                    hidden.z_rounded.data);
  const e4m3* const wdown = OperandPair(w.wdown).straight;
  if (added && cuda::adapters_fit(added.up.rank, D, added.up.docs, added.xa.data)) {
    const auto adapters = cuda::adapters_up(device, rows, added.xa, {added.up}, {D});
    cuda::linear_adapted(device.stream(), f.data, e + kE4m3F, wdown, e + kE4m3Down, residual.data,
                         adapters, rows, F, D, y.data);
    return;
  }
  cuda::mlp_e4m3_down(device.stream(), f.data, wdown, e, residual.data, rows, D, F, y.data);
  add_low_rank<bf16>(device, added, y);
}

// dm and n as columns for the weights' gradients: valid until adapters are packed.
cuda::MlpE4m3Columns columns_sm90(CudaDevice& device, Tensor<const bf16> dm, Tensor<const bf16> n,
                                  const int32_t* dm_exponents, const int32_t* exponents) {
  const int64_t rows = n.extent(0), D = n.extent(1);
  const auto size = static_cast<size_t>(D * cuda::MlpE4m3Columns::width(rows));
  std::byte* const memory = device.workspace(Workspace::operands, 2 * size + sizeof(int32_t));
  const cuda::MlpE4m3Columns columns{reinterpret_cast<e4m3*>(memory),
                                     reinterpret_cast<e4m3*>(memory + size),
                                     reinterpret_cast<int32_t*>(memory + 2 * size)};
  cuda::mlp_e4m3_operand_columns(device.stream(), dm.data, n.data, dm_exponents, exponents, rows, D,
                                 columns);
  return columns;
}

void backward_sm90(CudaDevice& device, Tensor<const bf16> dm, Tensor<const bf16> n,
                   const MlpHidden<bf16>& hidden, const MlpE4m3<bf16>& w, Tensor<bf16> dn,
                   Tensor<float> dwup, Tensor<float> dwdown, const LowRankAddedBack<bf16>& added,
                   const MlpNormBack<bf16>& norm, const E4m3Rows& dm_rows) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  if (rows == 0) return;
  const int32_t* const e = w.exponents.data;
  const int64_t tiles = norm || dm_rows ? cuda::leaky_sq_dot_tiles(F) : 0;
  const ScaledRows<e4m3> in = scaled_rows<e4m3>(device, rows, D, tiles);
  check(!dm_rows || (dm_rows.x.data == in.x.data && dm_rows.exponents.data == in.exponents),
        "mlp_leaky_sq_e4m3_backward: dm_rows are not mlp_e4m3_dm_rows's");
  if (!dm_rows)
    cuda::mlp_e4m3_operand_dm(device.stream(), dm.data, rows, D, in.x.data, in.exponents);
  check(static_cast<bool>(hidden.z_rounded), "mlp_leaky_sq_e4m3_backward: z was not kept");
  const Tensor<e4m3> dz = hidden.z_rounded;  // takes z's place
  cuda::MlpE4m3Columns columns{};
  float* partial = nullptr;
  int slices = 0;
  if (dwdown) {
    check(hidden.f.data != nullptr, "mlp_leaky_sq_e4m3_backward: f was not kept");
    columns = columns_sm90(device, dm, n, in.exponents, e);
    slices = cuda::mlp_e4m3_weight_slices(rows, D, F, device.multiprocessors());
    partial = reinterpret_cast<float*>(
        device.workspace(Workspace::hidden, cuda::mlp_e4m3_weight_bytes(D, F, slices)));
    cuda::mlp_e4m3_down_weight(device.stream(), columns, hidden.f.data, e, rows, D, F, slices,
                               partial, dwdown.data);
  }
  cuda::mlp_e4m3_down_backward(device.stream(), in.x.data, in.exponents,
                               OperandPair(w.wdown).transposed, e, hidden.z_rounded.data, rows, D,
                               F, dz.data, in.half_dots);
  if (dwup)
    cuda::mlp_e4m3_up_weight(device.stream(), columns, dz.data, e, rows, D, F, slices, partial,
                             dwup.data);
  const e4m3* const wup_transposed = OperandPair(w.wup).transposed;
  if (norm && cuda::mlp_norm_back_fits(added, norm, D)) {
    const cuda::NormBackScales scales{.dy_rows = in.exponents, .dy = e + kE4m3Dz, .w = e + kE4m3Up};
    cuda::mlp_norm_back<e4m3>(device, dz, wup_transposed, n, added, norm, {in.half_dots, in.row},
                              &scales);
    return;
  }
  cuda::mlp_e4m3_up_backward(device.stream(), dz.data, in.exponents, wup_transposed, e, rows, D, F,
                             dn.data);
  add_low_rank<bf16>(device, added, dn);
  if (norm) rms_norm_backward<bf16>(device, dn, n, norm.rstd, norm.scale, norm.dx);
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
bool mlp_e4m3_keeps_bytes(const CudaDevice& device, int64_t D, int64_t F) {
  return fits_sm90<T>(device, D, F);
}

template <class T>
Tensor<e4m3> mlp_e4m3_n_rows(CudaDevice& device, int64_t rows, int64_t D, int64_t F) {
  if (!fits_sm90<T>(device, D, F)) return {};
  return workspace<e4m3>(device, Workspace::e4m3, rows, D);
}

template <class T>
void mlp_e4m3_norm(CudaDevice& device, Tensor<const T> x, double eps, double ln,
                   const MlpE4m3<T>& w, Tensor<Accum<T>> rstd, Tensor<T> n,
                   Tensor<e4m3> n_operand) {
  if constexpr (std::is_same_v<T, bf16>)
    if (n_operand) {
      rms_norm_e4m3(device, x, eps, ln, rstd, n, w.exponents.data + kE4m3N, n_operand.data);
      return;
    }
  check(!n_operand, "mlp_e4m3_norm: an operand that nobody reads");
  rms_norm<T>(device, x, eps, ln, rstd, n);
}

template <class T>
void mlp_leaky_sq_e4m3(CudaDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                       const LowRankAdded<T>& added, Tensor<const e4m3> n_operand) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90<T>(device, D, F)) {
      if (!n_operand) {
        const Tensor<e4m3> made = mlp_e4m3_n_rows<T>(device, rows, D, F);
        cuda::mlp_e4m3_operand_n(device.stream(), n.data, w.exponents.data, rows, D, made.data);
        n_operand = made;
      }
      products_sm90(device, n_operand, w, residual, hidden, y, added);
      return;
    }
  check(!n_operand, "mlp_leaky_sq_e4m3: an operand that nobody reads");
  const int32_t* const e = w.exponents.data;
  const Tensor<T> in = workspace<T>(device, Workspace::e4m3, rows, D);
  round_rows_to_e4m3<T>(device, n, e + kE4m3N, nullptr, in.data);
  const Tensor<T> f = workspace<T>(device, Workspace::hidden, rows, F);
  const Tensor<T> z = hidden.z ? hidden.z : f;
  linear<T>(device, in, w.wup, z, false);
  leaky_sq_values<T>(device, f.size(), z.data, f.data);
  round_rows_to_e4m3<T>(device, f, e + kE4m3F, nullptr, f.data);
  linear_adapted<T>(device, f, w.wdown, residual, added, y);
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
                                const LowRankAddedBack<T>& added, const MlpNormBack<T>& norm,
                                const E4m3Rows& dm_rows) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.extent(0);
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90<T>(device, D, F)) {
      backward_sm90(device, dm, n, hidden, w, dn, dwup, dwdown, added, norm, dm_rows);
      return;
    }
  check(!dm_rows, "mlp_leaky_sq_e4m3_backward: an operand that nobody reads");
  const int32_t* const e = w.exponents.data;
  int32_t* const of_dm = workspace<int32_t>(device, Workspace::e4m3, rows + 1, 1).data;
  int32_t* const least = of_dm + rows;
  e4m3_row_exponents<T>(device, dm, of_dm, least);
  const Tensor<T> hidden_rows = workspace<T>(device, Workspace::hidden, rows, F);
  // Operands of D columns wait in dn, one after the other.
  const Tensor<T>& operand = dn;
  if (dwdown) {
    round_rows_to_e4m3<T>(device, dm, least, nullptr, operand.data);
    const Tensor<T>& f = hidden_rows;
    leaky_sq_values<T>(device, f.size(), hidden.z.data, f.data);
    round_rows_to_e4m3<T>(device, f, e + kE4m3F, nullptr, f.data);
    linear_backward_weight<T>(device, operand, f, dwdown);
  }
  round_rows_to_e4m3<T>(device, dm, nullptr, of_dm, operand.data);
  const Tensor<T>& dz = hidden_rows;  // f before it, df at first
  linear_backward_input<T>(device, operand, w.wdown, dz, false);
  round_dz_to_e4m3<T>(device, hidden.z, e, of_dm, dz);
  if (dwup) {
    round_rows_beside_dz<T>(device, n, e + kE4m3N, of_dm, least, operand.data);
    linear_backward_weight<T>(device, dz, operand, dwup);
  }
  linear_adapted_backward_input<T>(device, dz, w.wup, added, dn);
  if (norm) rms_norm_backward<T>(device, dn, n, norm.rstd, norm.scale, norm.dx);
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template void mlp_e4m3_weights(CudaDevice&, Tensor<const T>, Tensor<const T>,                \
                                 std::span<const double>, const MlpE4m3<T>&);                  \
  template Tensor<e4m3> mlp_e4m3_n_rows<T>(CudaDevice&, int64_t, int64_t, int64_t);            \
  template void mlp_e4m3_norm(CudaDevice&, Tensor<const T>, double, double, const MlpE4m3<T>&, \
                              Tensor<Accum<T>>, Tensor<T>, Tensor<e4m3>);                      \
  template void mlp_leaky_sq_e4m3(CudaDevice&, Tensor<const T>, const MlpE4m3<T>&,             \
                                  Tensor<const T>, const MlpHidden<T>&, Tensor<T>,             \
                                  const LowRankAdded<T>&, Tensor<const e4m3>);                 \
  template bool mlp_e4m3_keeps_bytes<T>(const CudaDevice&, int64_t, int64_t);                  \
  template E4m3Rows mlp_e4m3_dm_rows<T>(CudaDevice&, int64_t, int64_t, int64_t);               \
  template void mlp_leaky_sq_e4m3_backward(                                                    \
      CudaDevice&, Tensor<const T>, Tensor<const T>, const MlpHidden<T>&, const MlpE4m3<T>&,   \
      Tensor<T>, Tensor<Accum<T>>, Tensor<Accum<T>>, const LowRankAddedBack<T>&,               \
      const MlpNormBack<T>&, const E4m3Rows&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
