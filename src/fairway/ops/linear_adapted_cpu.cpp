#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear_adapted.h"

namespace fairway {

template <class T>
void linear_adapted(CpuDevice& device, Tensor<const T> x, Tensor<const T> w,
                    Tensor<const T> residual, const LowRankAdded<T>& added, Tensor<T> y) {
  linear_adapted_steps<T>(device, x, w, residual, added, y);
}

template <class T>
void linear_adapted_backward_input(CpuDevice& device, Tensor<const T> dy, Tensor<const T> w,
                                   const LowRankAddedBack<T>& added, Tensor<T> dx,
                                   Tensor<const T>) {
  linear_adapted_backward_input_steps<T>(device, dy, w, added, dx);
}

template <class T>
void linear_three_adapted_backward_input(CpuDevice& device, const LinearThree<T>& maps,
                                         const LowRankAddedBack<T>& added, Tensor<T> dx) {
  linear_three_adapted_backward_input_steps<T>(device, maps, added, dx);
}

#define FAIRWAY_INSTANTIATE(T)                                                                \
  template void linear_adapted(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                               const LowRankAdded<T>&, Tensor<T>);                            \
  template void linear_adapted_backward_input(CpuDevice&, Tensor<const T>, Tensor<const T>,   \
                                              const LowRankAddedBack<T>&, Tensor<T>,          \
                                              Tensor<const T>);                               \
  template void linear_three_adapted_backward_input(CpuDevice&, const LinearThree<T>&,        \
                                                    const LowRankAddedBack<T>&, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
