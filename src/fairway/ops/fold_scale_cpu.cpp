#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/fold_scale.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/scalar.h"

namespace fairway {

template <class T>
void fold_scale(CpuDevice& device, Tensor<const T> w, Tensor<const T> scale, Tensor<T> scaled) {
  const int64_t rows = scale.size(), cols = w.size() / rows;
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T s = scale[i];
#pragma omp simd
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j) scaled.data[j] = s * w.data[j];
    }
  });
}

template <class T>
void fold_scale_backward(CpuDevice& device, Tensor<const T> dscaled, Tensor<const T> w,
                         Tensor<const T> scale, Tensor<T> dw, Tensor<T> dscale) {
  const int64_t rows = scale.size(), cols = w.size() / rows;
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T s = scale[i];
      dscale[i] += dot(dscaled.data + i * cols, w.data + i * cols, cols);
#pragma omp simd
      for (int64_t j = i * cols; j < (i + 1) * cols; ++j) dw.data[j] += s * dscaled.data[j];
    }
  });
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void fold_scale(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>);               \
  template void fold_scale_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                    Tensor<T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
