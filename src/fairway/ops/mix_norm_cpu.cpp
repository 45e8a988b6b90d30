#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/rms_norm_row.h"

namespace fairway {

template <class T>
void mix_norm(CpuDevice& device, Tensor<const T> x, Tensor<const T> x0, Tensor<const T> mix,
              double eps, double scale, Tensor<T> u, Tensor<T> rstd, Tensor<T> n) {
  using Real = decltype(real_part(T{}));
  const int64_t D = x.extent(1);
  const T *mix0 = mix.data, *mix1 = mix.data + D;
  for_row_blocks(device, x.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T *xt = x.data + t * D, *x0t = x0.data + t * D;
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
void mix_norm_backward(CpuDevice& device, const MixNormGradient<T>& in, Tensor<const T> plus,
                       Tensor<T> dx, Tensor<T> dx0, Tensor<T> dmix) {
  using Real = decltype(real_part(T{}));
  const int64_t D = in.dn.extent(1), rows = in.dn.extent(0);
  const T *mix0 = in.mix.data, *mix1 = in.mix.data + D;
  const bool with_mix = dmix.data != nullptr;
  const auto block = [&](int64_t begin, int64_t end, T* partial) {
    T* g = reinterpret_cast<T*>(
        device.thread_scratch(kSlotTileIn, static_cast<size_t>(2 * D) * sizeof(T)));
    T* n_again = g + D;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = t * D;
      if (in.du)
        std::copy_n(in.du.data + row, D, g);
      else
        std::fill_n(g, D, T{});
      const T *xt = in.x.data + row, *x0t = in.x0.data + row;
      const T* n = in.n.data + row;
      if (with_mix) {
        const T scale = in.rstd[t] * T(static_cast<Real>(in.scale));
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) n_again[j] = scale * (mix0[j] * xt[j] + mix1[j] * x0t[j]);
        n = n_again;
      }
      row_rms_backward_from_output(in.dn.data + row, n, in.rstd[t], in.scale, D, g);
      const T* plus_t = plus ? plus.data + row : nullptr;
      if (with_mix) {
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) {
          partial[j] += g[j] * xt[j];
          partial[D + j] += g[j] * x0t[j];
        }
      }
      if (dx0) {
        T* dx0t = dx0.data + row;
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) dx0t[j] += mix1[j] * g[j];
      }
      if (dx) {
        T* dxt = dx.data + row;
#pragma omp simd
        for (int64_t j = 0; j < D; ++j)
          dxt[j] = plus_t ? plus_t[j] + mix0[j] * g[j] : mix0[j] * g[j];
      } else if (dx0) {
        T* dx0t = dx0.data + row;
#pragma omp simd
        for (int64_t j = 0; j < D; ++j)
          dx0t[j] += plus_t ? plus_t[j] + mix0[j] * g[j] : mix0[j] * g[j];
      }
    }
  };
  if (with_mix) {
    const T* partials = sum_row_blocks<T>(device, rows, 2 * D, block);
    add_partials(partials, rows, 2 * D, 0, 2 * D, dmix.data);
  } else {
    for_row_blocks(device, rows, [&](int64_t b, int64_t e) { block(b, e, nullptr); });
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void mix_norm(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, double, \
                         double, Tensor<T>, Tensor<T>, Tensor<T>);                              \
  template void mix_norm_backward(CpuDevice&, const MixNormGradient<T>&, Tensor<const T>,       \
                                  Tensor<T>, Tensor<T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
