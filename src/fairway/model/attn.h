// The attention sub-layer, from its normalised input n to a = attention(n). Internal to model/.
#pragma once

#include "fairway/model/layer.h"
#include "fairway/model/model.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/transposed_weights.h"

namespace fairway {

// cos and sin of every row's rotary angles, [T, rotary_dims/2] each.
template <class T>
struct RopeTable {
  Tensor<Accum<T>> cosine, sine;
};
template <class T>
RopeTable<T> take_rope_table(const ModelConfig& config, int64_t rows, Arena& arena);

// The rows that go on from attention's input: all T of them, or those that are picked (acts.h).
template <class T>
struct AttnQueries {
  AttentionSegments segments;
  RopeTable<T> rope;                 // of these rows
  const Lora<const Accum<T>>* lora;  // of these rows; null: no adapters
};

// Of Q queries; where they are picked, Q is less than T.
template <class T>
struct AttnScratch {
  Tensor<T> dy, dq;                 // [Q, D]
  Tensor<T> dk, dv;                 // [T, Kd]
  Tensor<Accum<T>> delta;           // [H, Q]
  Tensor<T> dxa;                    // like VisitActs::attn_xa
  Tensor<T> picked_dn, picked_dxa;  // like PickedRows::attn_in and attn_xa
};
// Every row is a query.
template <class T>
AttnScratch<T> take_attn_scratch(const ModelConfig& config, int64_t rows, Arena& arena,
                                 const LoraConfig* lora);
// Of picked queries, in the place of that of all rows: only one of them is used at a time.
template <class T>
AttnScratch<T> take_picked_attn_scratch(const AttnScratch<T>& all, int64_t queries, Arena& arena,
                                        const LoraConfig* lora);

// From acts' attn_in, and picked.attn_in where rows are picked: fills q_rot, k_rot, rstd_q, rstd_k,
// v, lse, y, y_dot_v, attn_xa, picked.attn_xa, and out = residual + attn_scale⊙attention (null
// residual: without) of the queries. `wo_scaled`: Wo with the scale folded in; lora and rope: of
// all rows.
template <class Device, class T>
void attn_forward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, const RopeTable<T>& rope,
                  const AttnQueries<T>& queries, Tensor<const T> wo_scaled,
                  const VisitActs<T>& acts, Tensor<const T> residual, Tensor<T> out);

// From dout, the gradient of what was added: dn, that of all of attn_in, is written (null: not
// wanted); where there is a place for them, weight gradients accumulate and adapter gradients are
// written. `transposed`: copies of the layer's matrices, of `wo_scaled` for Wo, or nulls.
template <class Device, class T>
void attn_backward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                   const Lora<const Accum<T>>* lora, const RopeTable<T>& rope,
                   const AttnQueries<T>& queries, Tensor<const T> wo_scaled,
                   const TransposedWeights<T>& transposed, const VisitActs<T>& acts,
                   Tensor<const T> dout, Tensor<T> dn, const Layer<Accum<T>>& dlayer,
                   Tensor<Accum<T>> dwo_scaled, const Lora<T>* dlora,
                   const AttnScratch<T>& scratch);

}  // namespace fairway
