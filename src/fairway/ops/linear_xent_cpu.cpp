#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear_xent.h"

namespace fairway {

template <class T>
void linear_xent(CpuDevice& device, const LinearXent<T>& in, Tensor<T> z,
                 const LinearXentOut<T>& out) {
  linear_xent_steps<T>(device, in, z, out);
}

#define FAIRWAY_INSTANTIATE(T) \
  template void linear_xent(CpuDevice&, const LinearXent<T>&, Tensor<T>, const LinearXentOut<T>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
