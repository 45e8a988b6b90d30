#include "fairway/ops/instantiate.h"
#include "fairway/ops/qkv_rope.h"

namespace fairway {

template <class T>
void qkv_rope(CpuDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
              const QkvRotated<T>& out) {
  qkv_products<T>(device, n, maps, out);
  qk_rope<T>(device, maps, out);
}

#define FAIRWAY_INSTANTIATE(T) \
  template void qkv_rope(CpuDevice&, Tensor<const T>, const QkvMaps<T>&, const QkvRotated<T>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
