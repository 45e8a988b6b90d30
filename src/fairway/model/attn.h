// The attention sub-layer, from its normalised input n to a = attention(n). Internal to model/.
#pragma once

#include "fairway/model/layer.h"
#include "fairway/model/model.h"

namespace fairway {

// cos and sin of every row's rotary angles, [T, rotary_dims/2] each.
template <class T>
struct RopeTable {
  Tensor<Accum<T>> cosine, sine;
};
template <class T>
RopeTable<T> take_rope_table(const ModelConfig& config, int64_t rows, Arena& arena);

template <class T>
struct AttnScratch {
  Tensor<T> dy, dq;        // [T, D]
  Tensor<T> dk, dv;        // [T, Kd]
  Tensor<Accum<T>> delta;  // [H, T]
};
template <class T>
AttnScratch<T> take_attn_scratch(const ModelConfig& config, int64_t rows, Arena& arena);

// Fills acts' q, k, v, q_rot, k_rot, lse, y, y_dot_v, a.
template <class Device, class T>
void attn_forward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, const Batch& batch, const RopeTable<T>& rope,
                  Tensor<const T> n, const VisitActs<T>& acts);

// From da: dn is written; weight and adapter gradients accumulate where there is a place for them.
template <class Device, class T>
void attn_backward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                   const Lora<const Accum<T>>* lora, const Batch& batch, const RopeTable<T>& rope,
                   Tensor<const T> n, const VisitActs<T>& acts, Tensor<const T> da, Tensor<T> dn,
                   const Layer<Accum<T>>& dlayer, const Lora<Accum<T>>* dlora,
                   const AttnScratch<T>& scratch);

}  // namespace fairway
