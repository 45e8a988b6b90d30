// Operands of type T that hold the rounded values: no faster than without, but the same products.
#include <algorithm>
#include <type_traits>

#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cpu.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

namespace {

// to[i] = as_e4m3(x[i], e); `to` may be x. Of a complex step the real part alone: derivatives pass
// through.
template <class T>
void round_span(const T* x, int64_t n, int e, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (std::is_floating_point_v<T>)
      to[i] = as_e4m3(x[i], e);
    else
      to[i] = {as_e4m3(x[i].real(), e), x[i].imag()};
  }
}

template <class T>
float largest_magnitude(const T* x, int64_t n) {
  auto largest = real_part(T{});
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const auto magnitude = real_part(x[i]) < 0 ? -real_part(x[i]) : real_part(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return static_cast<float>(largest);
}

template <class T>
double sum_of_squares(const T* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto v = static_cast<double>(real_part(x[i]));
    sum += v * v;
  }
  return sum;
}

struct MatrixFacts {
  float largest = 0;
  double squares = 0;
};
template <class T>
MatrixFacts facts_of(CpuDevice& device, Tensor<const T> w) {
  const int64_t rows = w.extent(0), cols = w.extent(1);
  auto* of_block = reinterpret_cast<MatrixFacts*>(device.shared_scratch(
      kSlotPartials, static_cast<size_t>(row_blocks(rows)) * sizeof(MatrixFacts)));
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    const T* x = w.data + begin * cols;
    const int64_t n = (end - begin) * cols;
    of_block[begin / kRowBlock] = {largest_magnitude(x, n), sum_of_squares(x, n)};
  });
  MatrixFacts all;
  for (int64_t b = 0; b < row_blocks(rows); ++b)
    all = {std::max(all.largest, of_block[b].largest), all.squares + of_block[b].squares};
  return all;
}

// to = as_e4m3(x, e(t)) of each row t of `to` [rows, width].
template <class T, class Exponent>
void round_rows(CpuDevice& device, Tensor<const T> x, Exponent&& e, Tensor<T> to) {
  const int64_t width = to.extent(1);
  for_row_blocks(device, to.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      round_span(x.data + t * width, width, e(t), to.data + t * width);
  });
}
template <class T>
void round_matrix(CpuDevice& device, Tensor<const T> x, int e, Tensor<T> to) {
  round_rows(
      device, x, [e](int64_t) { return e; }, to);
}

struct RowExponents {
  const int32_t* of;  // [rows] in scratch memory
  int least;
};
template <class T>
RowExponents row_exponents(CpuDevice& device, const T* x, int64_t rows, int64_t width) {
  auto* const of = reinterpret_cast<int32_t*>(
      device.shared_scratch(kSlotVectors, static_cast<size_t>(rows) * sizeof(int32_t)));
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      of[t] = e4m3_exponent(largest_magnitude(x + t * width, width));
  });
  int least = kE4m3MaxExponent;
  for (int64_t t = 0; t < rows; ++t) least = std::min<int>(least, of[t]);
  return {of, least};
}

}  // namespace

template <class T>
void mlp_e4m3_weights(CpuDevice& device, Tensor<const T> wup, Tensor<const T> wdown,
                      std::span<const double> ln, const MlpE4m3<T>& to) {
  const int64_t F = wup.extent(1), D = wup.extent(2);
  for (int64_t i = 0; i < wup.extent(0); ++i) {
    const Tensor<const T> up = wup.slice(i), down = wdown.slice(i);
    const MlpE4m3<T> layer = to.slice(i);
    const MatrixFacts of_up = facts_of(device, up), of_down = facts_of(device, down);
    e4m3_exponents(D, F, ln[static_cast<size_t>(i)], of_up.largest, of_up.squares, of_down.largest,
                   of_down.squares, layer.exponents.data);
    round_matrix(device, up, layer.exponents[kE4m3Up], layer.wup);
    round_matrix(device, down, layer.exponents[kE4m3Down], layer.wdown);
  }
}

template <class T>
bool mlp_e4m3_keeps_bytes(const CpuDevice&, int64_t, int64_t) {
  return false;
}

template <class T>
Tensor<e4m3> mlp_e4m3_n_rows(CpuDevice&, int64_t, int64_t, int64_t) {
  return {};
}

template <class T>
void mlp_e4m3_norm(CpuDevice& device, Tensor<const T> x, double eps, double ln, const MlpE4m3<T>&,
                   Tensor<T> rstd, Tensor<T> n, Tensor<e4m3> n_operand) {
  check(!n_operand, "mlp_e4m3_norm: an operand that nobody reads");
  rms_norm<T>(device, x, eps, ln, rstd, n);
}

template <class T>
void mlp_leaky_sq_e4m3(CpuDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                       const LowRankAdded<T>& added, Tensor<const e4m3> n_operand) {
  check(!n_operand, "mlp_leaky_sq_e4m3: an operand that nobody reads");
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.size() / D;
  const Tensor<int32_t> e = w.exponents;
  for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
    const int64_t tile = end - begin;
    T* in = tile_scratch<T>(device, kSlotTileD, tile * D);
    T* f = tile_scratch<T>(device, kSlotTileC, tile * F);
    T* z = hidden.z ? hidden.z.data + begin * F : f;
    round_span(n.data + begin * D, tile * D, e[kE4m3N], in);
    rows_times<T>(device, tile, F, D, in, mat_t<T>(w.wup.data, D), z, false);
    leaky_sq_span(z, tile * F, f);
    round_span(f, tile * F, e[kE4m3F], f);
    if (residual && residual.data != y.data)
      std::copy_n(residual.data + begin * D, tile * D, y.data + begin * D);
    rows_times<T>(device, tile, D, F, f, mat_t<T>(w.wdown.data, F), y.data + begin * D,
                  static_cast<bool>(residual));
  });
  add_low_rank<T>(device, added, y);
}

template <class T>
E4m3Rows mlp_e4m3_dm_rows(CpuDevice&, int64_t, int64_t, int64_t) {
  return {};
}

template <class T>
void mlp_leaky_sq_e4m3_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<T> dwup, Tensor<T> dwdown, const LowRankAddedBack<T>& added,
                                const MlpNormBack<T>& norm, const E4m3Rows& dm_rows) {
  check(!dm_rows, "mlp_leaky_sq_e4m3_backward: an operand that nobody reads");
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.size() / D;
  const Tensor<int32_t> e = w.exponents;
  const RowExponents of_dm = row_exponents(device, dm.data, rows, D);
  // The operands of all rows: dz's take z's place; for weight gradients f's live here, and those of
  // one product after the other wait in dn.
  const bool with_weights = dwup.data != nullptr;
  const size_t bytes = with_weights ? static_cast<size_t>(rows * F) * sizeof(T) : 0;
  const Tensor<T> all_f{reinterpret_cast<T*>(device.shared_scratch(kSlotHidden, bytes)), {rows, F}};
  const Tensor<T> dz = hidden.z, operand{dn.data, {rows, D}};
  for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
    const int64_t tile = end - begin;
    T* in = tile_scratch<T>(device, kSlotTileD, tile * D);
    T* df = tile_scratch<T>(device, kSlotTileC, tile * F);
    T* zt = hidden.z.data + begin * F;
    for (int64_t t = 0; t < tile; ++t)
      round_span(dm.data + (begin + t) * D, D, of_dm.of[begin + t], in + t * D);
    rows_times<T>(device, tile, F, D, in, mat<T>(w.wdown.data, F), df, false);
    if (with_weights) {
      T* ft = all_f.data + begin * F;
      leaky_sq_span(zt, tile * F, ft);
      round_span(ft, tile * F, e[kE4m3F], ft);
    }
    round_span(zt, tile * F, e[kE4m3Z], zt);
#pragma omp simd
    for (int64_t i = 0; i < tile * F; ++i) zt[i] = df[i] * leaky_sq_slope(zt[i]);
    for (int64_t t = 0; t < tile; ++t)
      round_span(zt + t * F, F, of_dm.of[begin + t] + e[kE4m3Dz], zt + t * F);
  });
  if (with_weights) {
    round_matrix(device, dm, of_dm.least, operand);
    linear_backward_weight<T>(device, operand, all_f, dwdown);
    round_rows(
        device, n,
        [&](int64_t t) { return e4m3_exponent_beside_dz(e[kE4m3N], of_dm.of[t], of_dm.least); },
        operand);
    linear_backward_weight<T>(device, dz, operand, dwup);
  }
  linear_backward_input<T>(device, dz, w.wup, dn, false);
  add_low_rank<T>(device, added, dn);
  // Last: norm.dx may be dm.
  if (norm) rms_norm_backward<T>(device, dn, n, norm.rstd, norm.scale, norm.dx);
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void mlp_e4m3_weights(CpuDevice&, Tensor<const T>, Tensor<const T>,                     \
                                 std::span<const double>, const MlpE4m3<T>&);                      \
  template Tensor<e4m3> mlp_e4m3_n_rows<T>(CpuDevice&, int64_t, int64_t, int64_t);                 \
  template void mlp_e4m3_norm(CpuDevice&, Tensor<const T>, double, double, const MlpE4m3<T>&,      \
                              Tensor<T>, Tensor<T>, Tensor<e4m3>);                                 \
  template void mlp_leaky_sq_e4m3(CpuDevice&, Tensor<const T>, const MlpE4m3<T>&, Tensor<const T>, \
                                  const MlpHidden<T>&, Tensor<T>, const LowRankAdded<T>&,          \
                                  Tensor<const e4m3>);                                             \
  template void mlp_leaky_sq_e4m3_backward(CpuDevice&, Tensor<const T>, Tensor<const T>,           \
                                           const MlpHidden<T>&, const MlpE4m3<T>&, Tensor<T>,      \
                                           Tensor<T>, Tensor<T>, const LowRankAddedBack<T>&,       \
                                           const MlpNormBack<T>&, const E4m3Rows&);                \
  template E4m3Rows mlp_e4m3_dm_rows<T>(CpuDevice&, int64_t, int64_t, int64_t);                    \
  template bool mlp_e4m3_keeps_bytes<T>(const CpuDevice&, int64_t, int64_t);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
