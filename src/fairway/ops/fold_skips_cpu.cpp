#include "fairway/ops/fold_skips.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/scalar.h"

namespace fairway {

template <class T>
void fold_skips(CpuDevice&, Tensor<const T> w, Tensor<const T> gate, Tensor<T> skip) {
  const int64_t D = w.extent(1);
  for (int64_t s = 0; s < w.extent(0); ++s)
    for (int64_t j = 0; j < D; ++j) {
      const T g = gate ? sigmoid(gate[s * D + j]) : T(1), keep = gate ? T(1) - g : T(1);
      skip[2 * s * D + j] = g;
      skip[(2 * s + 1) * D + j] = keep * w[s * D + j];
    }
}

template <class T>
void fold_skips_backward(CpuDevice&, Tensor<const T> dskip, Tensor<const T> w, Tensor<const T> gate,
                         Tensor<T> dw, Tensor<T> dgate) {
  const int64_t D = w.extent(1);
  for (int64_t s = 0; s < w.extent(0); ++s)
    for (int64_t j = 0; j < D; ++j) {
      const int64_t i = s * D + j;
      const T g = gate ? sigmoid(gate[i]) : T(1), keep = gate ? T(1) - g : T(1);
      const T d0 = dskip[2 * s * D + j], d1 = dskip[(2 * s + 1) * D + j];
      dw[i] += keep * d1;
      if (gate) dgate[i] += g * keep * (d0 - w[i] * d1);
    }
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void fold_skips(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>);               \
  template void fold_skips_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                    Tensor<T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
