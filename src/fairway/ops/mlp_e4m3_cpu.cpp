// Operands of type T that hold the rounded values: no faster than without, but the same products.
#include <algorithm>
#include <array>
#include <type_traits>

#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cpu.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/mlp_e4m3.h"

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

template <class T>
void round_matrix(CpuDevice& device, Tensor<const T> w, int e, Tensor<T> to) {
  const int64_t cols = w.extent(1);
  for_row_blocks(device, w.extent(0), [&](int64_t begin, int64_t end) {
    round_span(w.data + begin * cols, (end - begin) * cols, e, to.data + begin * cols);
  });
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
void mlp_leaky_sq_e4m3(CpuDevice& device, Tensor<const T> n, const MlpE4m3<T>& w,
                       Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y) {
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.size() / D;
  const Tensor<int32_t> e = w.exponents;
  for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
    const int64_t tile = end - begin;
    T* in = tile_scratch<T>(device, kSlotTileD, tile * D);
    T* f = tile_scratch<T>(device, kSlotTileC, tile * F);
    T* z = hidden.z.data + begin * F;
    round_span(n.data + begin * D, tile * D, e[kE4m3N], in);
    rows_times<T>(device, tile, F, D, in, mat_t<T>(w.wup.data, D), z, false);
    leaky_sq_span(z, tile * F, f);
    round_span(f, tile * F, e[kE4m3F], f);
    if (residual && residual.data != y.data)
      std::copy_n(residual.data + begin * D, tile * D, y.data + begin * D);
    rows_times<T>(device, tile, D, F, f, mat_t<T>(w.wdown.data, F), y.data + begin * D,
                  static_cast<bool>(residual));
  });
}

template <class T>
void norm_mlp_leaky_sq_e4m3(CpuDevice& device, Tensor<const T> x, double eps, double ln,
                            Tensor<T> rstd, Tensor<T> n, const MlpE4m3<T>& w,
                            Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y) {
  norm_mlp_leaky_sq_e4m3_steps<T>(device, x, eps, ln, rstd, n, w, residual, hidden, y);
}

template <class T>
E4m3Rows mlp_e4m3_dm_rows(CpuDevice&, int64_t, int64_t, int64_t) {
  return {};
}

template <class T>
void mlp_leaky_sq_e4m3_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                                const MlpHidden<T>& hidden, const MlpE4m3<T>& w, Tensor<T> dn,
                                Tensor<T> dwup, Tensor<T> dwdown, const MlpNormBack<T>& norm,
                                const E4m3Rows& dm_rows) {
  check(!dm_rows, "mlp_leaky_sq_e4m3_backward: an operand that nobody reads");
  const int64_t F = w.wup.extent(0), D = w.wup.extent(1), rows = n.size() / D;
  // f(z) lives here, and dz takes z's place.
  const Tensor<T> z = hidden.z;
  const Tensor<T> f{reinterpret_cast<T*>(device.shared_scratch(
                        kSlotHidden, static_cast<size_t>(rows * F) * sizeof(T))),
                    {rows, F}};
  for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
    const int64_t tile = end - begin;
    T* in = tile_scratch<T>(device, kSlotTileD, tile * D);
    T* df = tile_scratch<T>(device, kSlotTileC, tile * F);
    T* zt = z.data + begin * F;
    std::array<int, kTileRows> row_exponent;
    for (int64_t t = 0; t < tile; ++t) {
      const T* row = dm.data + (begin + t) * D;
      const int e = e4m3_exponent(largest_magnitude(row, D));
      row_exponent[static_cast<size_t>(t)] = e;
      round_span(row, D, e, in + t * D);
    }
    rows_times<T>(device, tile, F, D, in, mat<T>(w.wdown.data, F), df, false);
    leaky_sq_span(zt, tile * F, f.data + begin * F);
#pragma omp simd
    for (int64_t i = 0; i < tile * F; ++i) zt[i] = df[i] * leaky_sq_slope(zt[i]);
    for (int64_t t = 0; t < tile; ++t)
      round_span(zt + t * F, F, row_exponent[static_cast<size_t>(t)] + w.exponents[kE4m3Dz],
                 df + t * F);
    rows_times<T>(device, tile, D, F, df, mat<T>(w.wup.data, D), dn.data + begin * D, false);
  });
  linear_backward_weight<T>(device, dm, f, dwdown);
  linear_backward_weight<T>(device, z, n, dwup);
  // Last: norm.dx may be dm.
  if (norm) rms_norm_backward<T>(device, dn, n, norm.rstd, norm.scale, norm.dx);
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void mlp_e4m3_weights(CpuDevice&, Tensor<const T>, Tensor<const T>,                     \
                                 std::span<const double>, const MlpE4m3<T>&);                      \
  template void mlp_leaky_sq_e4m3(CpuDevice&, Tensor<const T>, const MlpE4m3<T>&, Tensor<const T>, \
                                  const MlpHidden<T>&, Tensor<T>);                                 \
  template void norm_mlp_leaky_sq_e4m3(CpuDevice&, Tensor<const T>, double, double, Tensor<T>,     \
                                       Tensor<T>, const MlpE4m3<T>&, Tensor<const T>,              \
                                       const MlpHidden<T>&, Tensor<T>);                            \
  template void mlp_leaky_sq_e4m3_backward(                                                        \
      CpuDevice&, Tensor<const T>, Tensor<const T>, const MlpHidden<T>&, const MlpE4m3<T>&,        \
      Tensor<T>, Tensor<T>, Tensor<T>, const MlpNormBack<T>&, const E4m3Rows&);                    \
  template E4m3Rows mlp_e4m3_dm_rows<T>(CpuDevice&, int64_t, int64_t, int64_t);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
