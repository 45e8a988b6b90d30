#include <complex>

#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rms_norm_row.h"

namespace fairway {

template <class T>
void rms_norm(CpuDevice& device, Tensor<const T> x, double eps, double scale, Tensor<T> rstd,
              Tensor<T> n) {
  const int64_t D = x.extent(1);
  for_row_blocks(device, x.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      rstd[t] = row_rstd(x.data + t * D, D, eps);
      const T g = rstd[t] * T(static_cast<decltype(real_part(T{}))>(scale));
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) n.data[t * D + j] = x.data[t * D + j] * g;
    }
  });
}

template <class T>
void rms_norm_backward(CpuDevice& device, Tensor<const T> dn, Tensor<const T> n,
                       Tensor<const T> rstd, double scale, Tensor<T> dx) {
  const int64_t D = n.extent(1);
  for_row_blocks(device, n.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      row_rms_backward_from_output(dn.data + t * D, n.data + t * D, rstd[t], scale, D,
                                   dx.data + t * D);
  });
}

template <class T>
void rms_norm_backward_write(CpuDevice& device, Tensor<const T> dn, Tensor<const T> n,
                             Tensor<const T> rstd, Tensor<T> dx) {
  const int64_t D = n.extent(1);
  for_row_blocks(device, n.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *nr = n.data + r * D, *dnr = dn.data + r * D;
      T* out = dx.data + r * D;
      const T mean = dot(dnr, nr, D) / T(static_cast<decltype(real_part(T{}))>(D)), g = rstd[r];
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) out[j] = g * (dnr[j] - nr[j] * mean);
    }
  });
}

template <class T>
void gather_rows(CpuDevice& device, Tensor<const T> x, Tensor<const int32_t> rows, Tensor<T> y) {
  const int64_t D = x.extent(1);
  for_row_blocks(device, y.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) std::copy_n(x.data + rows[r] * D, D, y.data + r * D);
  });
}

template <class T>
void add_rows(CpuDevice& device, Tensor<const T> y, Tensor<const int32_t> rows, Tensor<T> x) {
  const int64_t D = x.extent(1);
  for_row_blocks(device, y.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = y.data + r * D;
      T* to = x.data + rows[r] * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) to[j] += from[j];
    }
  });
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template void rms_norm(CpuDevice&, Tensor<const T>, double, double, Tensor<T>, Tensor<T>);     \
  template void rms_norm_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                  double, Tensor<T>);                                            \
  template void rms_norm_backward_write(CpuDevice&, Tensor<const T>, Tensor<const T>,            \
                                        Tensor<const T>, Tensor<T>);                             \
  template void add_rows(CpuDevice&, Tensor<const T>, Tensor<const int32_t>, Tensor<T>);         \
  template void gather_rows(CpuDevice&, Tensor<const T>, Tensor<const int32_t>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
