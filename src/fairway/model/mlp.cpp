#include "fairway/model/mlp.h"

#include "fairway/model/adapters.h"
#include "fairway/model/instantiate.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway {

template <class T>
MlpScratch<T> take_mlp_scratch(const ModelConfig& config, int64_t rows, bool with_weights,
                               Arena& arena) {
  if (!with_weights) return {};
  const Shape shape{rows, config.mlp_dim()};
  return {arena.take<T>("MLP gradients", shape), arena.take<T>("MLP gradients", shape)};
}

template <class Device, class T>
void mlp_forward(Device& device, int s, const Layer<const T>& layer,
                 const Lora<const Accum<T>>* lora, Tensor<const T> n, const VisitActs<T>& acts) {
  mlp_leaky_sq<T>(device, n, layer.wup, layer.wdown, acts.z, acts.m);
  adapt<Device, T>(device, slot_adapters(lora, s, Adapter::mlp), n, acts.m);
}

template <class Device, class T>
void mlp_backward(Device& device, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, Tensor<const T> n, const VisitActs<T>& acts,
                  Tensor<const T> dm, Tensor<T> dn, const Layer<Accum<T>>& dlayer,
                  const Lora<Accum<T>>* dlora, const MlpScratch<T>& scratch) {
  mlp_leaky_sq_backward<T>(device, dm, n, acts.z, layer.wup, layer.wdown, false, dn, dlayer.wup,
                           dlayer.wdown, scratch.hidden, scratch.dz);
  adapt_backward<Device, T>(device, slot_adapters(lora, s, Adapter::mlp), dm, n, dn,
                            slot_adapters(dlora, s, Adapter::mlp));
}

#define FAIRWAY_INSTANTIATE(T) \
  template MlpScratch<T> take_mlp_scratch(const ModelConfig&, int64_t, bool, Arena&);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

#define FAIRWAY_INSTANTIATE(Device, T)                                                         \
  template void mlp_forward(Device&, int, const Layer<const T>&, const Lora<const Accum<T>>*,  \
                            Tensor<const T>, const VisitActs<T>&);                             \
  template void mlp_backward(Device&, int, const Layer<const T>&, const Lora<const Accum<T>>*, \
                             Tensor<const T>, const VisitActs<T>&, Tensor<const T>, Tensor<T>, \
                             const Layer<Accum<T>>&, const Lora<Accum<T>>*, const MlpScratch<T>&);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
