#include "fairway/ops/instantiate.h"
#include "fairway/ops/qkv_rope.h"

namespace fairway {

template <class T>
void qkv_rope(CpuDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
              const QkvRotated<T>& out) {
  qkv_rope_steps<T>(device, n, maps, {}, out);
}

template <class T>
void qkv_rope_adapted(CpuDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
                      const QkvAdapters<T>& adapters, const QkvRotated<T>& out) {
  qkv_rope_steps<T>(device, n, maps, adapters, out);
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void qkv_rope(CpuDevice&, Tensor<const T>, const QkvMaps<T>&, const QkvRotated<T>&); \
  template void qkv_rope_adapted(CpuDevice&, Tensor<const T>, const QkvMaps<T>&,                \
                                 const QkvAdapters<T>&, const QkvRotated<T>&);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
