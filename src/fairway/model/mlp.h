// The MLP sub-layer, from its normalised input n to m = mlp(n). Internal to model/.
#pragma once

#include "fairway/model/layer.h"
#include "fairway/model/model.h"

namespace fairway {

template <class T>
struct MlpScratch {
  Tensor<T> hidden, dz;  // [T, F]; null without weight gradients
};
template <class T>
MlpScratch<T> take_mlp_scratch(const ModelConfig& config, int64_t rows, bool with_weights,
                               Arena& arena);

// Fills acts' z (where it is kept) and m.
template <class Device, class T>
void mlp_forward(Device& device, int s, const Layer<const T>& layer,
                 const Lora<const Accum<T>>* lora, Tensor<const T> n, const VisitActs<T>& acts);

// From dm: dn is written; weight and adapter gradients accumulate where there is a place for them.
template <class Device, class T>
void mlp_backward(Device& device, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, Tensor<const T> n, const VisitActs<T>& acts,
                  Tensor<const T> dm, Tensor<T> dn, const Layer<Accum<T>>& dlayer,
                  const Lora<Accum<T>>* dlora, const MlpScratch<T>& scratch);

}  // namespace fairway
