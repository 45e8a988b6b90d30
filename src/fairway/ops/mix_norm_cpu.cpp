#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/rms_norm_row.h"

namespace fairway {

namespace {

// Row t of x: the input's own, or made in `scratch` [D].
template <class T>
const T* block_input_row(const BlockInput<T>& in, int64_t t, int64_t D, T* scratch) {
  const T* x_pre = in.x_pre.data + t * D;
  if (!in.k) return x_pre;
  const T *k = in.k.data + t * D, *skip0 = in.skip.data, *skip1 = in.skip.data + D;
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) scratch[j] = skip0[j] * x_pre[j] + skip1[j] * k[j];
  return scratch;
}

template <class T>
T* scratch_rows(CpuDevice& device, int rows, int64_t D) {
  return reinterpret_cast<T*>(
      device.thread_scratch(kSlotTileIn, static_cast<size_t>(rows * D) * sizeof(T)));
}

// to += a⊙b.
template <class T>
void add_products(const T* a, const T* b, int64_t D, T* to) {
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) to[j] += a[j] * b[j];
}
template <class T>
void add_row(const T* a, int64_t D, T* to) {
#pragma omp simd
  for (int64_t j = 0; j < D; ++j) to[j] += a[j];
}

}  // namespace

template <class T>
void mix_norm(CpuDevice& device, const BlockInput<T>& in, Tensor<const T> x0, Tensor<const T> mix,
              double eps, double scale, Tensor<T> x, Tensor<T> u, Tensor<T> rstd, Tensor<T> n) {
  using Real = decltype(real_part(T{}));
  const int64_t D = x0.extent(1);
  const T *mix0 = mix.data, *mix1 = mix.data + D;
  for_row_blocks(device, x0.extent(0), [&](int64_t begin, int64_t end) {
    T* scratch = scratch_rows<T>(device, 1, D);
    for (int64_t t = begin; t < end; ++t) {
      const T *xt = block_input_row(in, t, D, scratch), *x0t = x0.data + t * D;
      if (x) std::copy_n(xt, D, x.data + t * D);
      T* nt = n.data + t * D;
      T* ut = u ? u.data + t * D : nt;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) ut[j] = mix0[j] * xt[j] + mix1[j] * x0t[j];
      rstd[t] = row_rstd(ut, D, eps);
      const T g = rstd[t] * T(static_cast<Real>(scale));
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) nt[j] = ut[j] * g;
    }
  });
}

template <class T>
void mix_norm_backward(CpuDevice& device, const MixNormBackward<T>& from,
                       const MixNormGradients<T>& to) {
  using Real = decltype(real_part(T{}));
  const int64_t D = from.dn.extent(1), rows = from.dn.extent(0);
  const T *mix0 = from.mix.data, *mix1 = from.mix.data + D;
  const T *skip0 = from.in.skip.data, *skip1 = from.in.skip.data + D;
  const bool with_mix = static_cast<bool>(to.mix), with_skip = static_cast<bool>(from.in.k);
  const int64_t sums = with_skip ? 4 * D : 2 * D;
  const auto block = [&](int64_t begin, int64_t end, T* partial) {
    T *x_scratch = scratch_rows<T>(device, 4, D), *n_again = x_scratch + D;
    T *g = x_scratch + 2 * D, *d = x_scratch + 3 * D;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = t * D;
      const T *x = nullptr, *x0 = from.x0.data + row, *n = from.n.data + row;
      if (with_mix) {
        x = block_input_row(from.in, t, D, x_scratch);
        const T scale = from.rstd[t] * T(static_cast<Real>(from.scale));
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) n_again[j] = scale * (mix0[j] * x[j] + mix1[j] * x0[j]);
        n = n_again;
      }
      if (from.du)
        std::copy_n(from.du.data + row, D, g);
      else
        std::fill_n(g, D, T{});
      row_rms_backward_from_output(from.dn.data + row, n, from.rstd[t], from.scale, D, g);
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) d[j] = mix0[j] * g[j];
      if (from.dx) add_row(from.dx.data + row, D, d);
      if (with_mix) {
        add_products(g, x, D, partial);
        add_products(g, x0, D, partial + D);
      }
      if (with_skip) {
        if (with_mix) {
          add_products(d, from.in.x_pre.data + row, D, partial + 2 * D);
          add_products(d, from.in.k.data + row, D, partial + 3 * D);
        }
        T* dk = to.k ? to.k.data + row : x_scratch;
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) {
          dk[j] = skip1[j] * d[j];
          d[j] *= skip0[j];
        }
        if (!to.k) add_row(dk, D, d);
      }
      if (from.dx_pre) add_row(from.dx_pre.data + row, D, d);
      if (to.x0 && to.first_of_x0) std::fill_n(to.x0.data + row, D, T{});
      if (to.x0) add_products(mix1, g, D, to.x0.data + row);
      if (to.x_pre)
        std::copy_n(d, D, to.x_pre.data + row);
      else if (to.x0)
        add_row(d, D, to.x0.data + row);
    }
  };
  if (with_mix) {
    const T* partials = sum_row_blocks<T>(device, rows, sums, block);
    add_partials(partials, rows, sums, 0, 2 * D, to.mix.data);
    if (with_skip) add_partials(partials, rows, sums, 2 * D, 2 * D, to.skip.data);
  } else {
    for_row_blocks(device, rows, [&](int64_t b, int64_t e) { block(b, e, nullptr); });
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                               \
  template void mix_norm(CpuDevice&, const BlockInput<T>&, Tensor<const T>, Tensor<const T>, \
                         double, double, Tensor<T>, Tensor<T>, Tensor<T>, Tensor<T>);        \
  template void mix_norm_backward(CpuDevice&, const MixNormBackward<T>&,                     \
                                  const MixNormGradients<T>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
