#include "fairway/model/attn.h"

#include "fairway/model/adapters.h"
#include "fairway/model/instantiate.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_xsa.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_xsa.h"
#include "fairway/ops/qkv_rope.h"
#include "fairway/ops/xsa.h"

namespace fairway {

template <class T>
RopeTable<T> take_rope_table(const ModelConfig& config, int64_t rows, Arena& arena) {
  const Shape shape{rows, config.rotary_dims() / 2};
  return {arena.take<Accum<T>>("rope table", shape), arena.take<Accum<T>>("rope table", shape)};
}

template <class T>
AttnScratch<T> take_attn_scratch(const ModelConfig& c, int64_t rows, Arena& arena,
                                 const LoraConfig* lora) {
  const Shape q{rows, c.num_heads, c.head_dim()}, kv{rows, c.num_kv_heads, c.head_dim()};
  return {arena.take<T>("attention gradients", q),
          arena.take<T>("attention gradients", q),
          arena.take<T>("attention gradients", kv),
          arena.take<T>("attention gradients", kv),
          arena.take<Accum<T>>("attention gradients", {c.num_heads, rows}),
          lora ? arena.take<T>("adapters", {rows, lora->attn_columns()}) : Tensor<T>{}};
}

template <class Device, class T>
void attn_forward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, const AttentionSegments& segments,
                  const RopeTable<T>& rope, Tensor<const T> wo_scaled, const VisitActs<T>& acts,
                  Tensor<const T> residual, Tensor<T> out) {
  const Tensor<const T> n = acts.attn_in;
  const double eps = net.config.norm_eps;
  const QkvMaps<T> maps{layer.wq, layer.wk, layer.wv, layer.q_gain, rope.cosine, rope.sine, eps};
  const QkvRotated<T> qkv{acts.q_rot, acts.k_rot, acts.v, acts.rstd_q, acts.rstd_k};
  adapt_down<Device, T>(device, slot_down(lora, s, kAttnAdapters), n, acts.attn_xa);
  qkv_rope_adapted<T>(device, n, maps,
                      {slot_up(lora, s, Adapter::q), slot_up(lora, s, Adapter::k),
                       slot_up(lora, s, Adapter::v), acts.attn_xa},
                      qkv);
  if (net.route[static_cast<size_t>(s)].xsa)
    attention_xsa<T>(device, acts.q_rot, acts.k_rot, acts.v, segments, acts.y, acts.lse,
                     acts.y_dot_v);
  else
    attention_varlen<T>(device, acts.q_rot, acts.k_rot, acts.v, segments, acts.y, acts.lse);
  linear_adapted<T>(device, acts.y, wo_scaled, residual,
                    {slot_up(lora, s, Adapter::o, layer.attn_scale.data), acts.attn_xa}, out);
}

template <class Device, class T>
void attn_backward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                   const Lora<const Accum<T>>* lora, const AttentionSegments& segments,
                   const RopeTable<T>& rope, Tensor<const T> wo_scaled, const VisitActs<T>& acts,
                   Tensor<const T> dout, Tensor<T> dn, const Layer<Accum<T>>& dlayer,
                   Tensor<Accum<T>> dwo_scaled, const Lora<Accum<T>>* dlora,
                   const AttnScratch<T>& scratch) {
  const Tensor<const T> n = acts.attn_in;
  const auto& [dy, dq, dk, dv, delta, dxa] = scratch;
  const RopeBackward<T> through_rope{acts.rstd_q, acts.rstd_k, layer.q_gain,
                                     rope.cosine, rope.sine,   dlayer.q_gain};
  if (dwo_scaled) linear_backward_weight<T>(device, dout, acts.y, dwo_scaled);
  if (net.route[static_cast<size_t>(s)].xsa) {
    linear_xsa_backward<T>(device, dout, wo_scaled, acts.y, acts.v, acts.y_dot_v, dy, dv, delta);
  } else {
    linear_backward_input<T>(device, dout, wo_scaled, dy, false);
    attention_delta<T>(device, acts.y, dy, delta);
    device.zero(dv.data, static_cast<size_t>(dv.size()) * sizeof(T));
  }
  attention_varlen_backward<T>(device, acts.q_rot, acts.k_rot, acts.v, segments, acts.lse, dy,
                               delta, dq, dk, dv, &through_rope);
  if (dlayer.wq)
    linear_three_backward_weight<T>(device, {dq, dk, dv}, n, {dlayer.wq, dlayer.wk, dlayer.wv});
  const auto up = [&](Adapter kind, Tensor<const T> d, const Accum<T>* out_scale) {
    return adapted_up<T>(slot_up(lora, s, kind, out_scale), d, slot_up(dlora, s, kind));
  };
  adapt_ups_backward<Device, T>(
      device,
      {up(Adapter::q, dq, nullptr), up(Adapter::k, dk, nullptr), up(Adapter::v, dv, nullptr),
       up(Adapter::o, dout, layer.attn_scale.data)},
      acts.attn_xa, dxa);
  const auto down = slot_down(lora, s, kAttnAdapters);
  if (dn)
    linear_three_adapted_backward_input<T>(device, {{dq, dk, dv}, {layer.wq, layer.wk, layer.wv}},
                                           {down, dxa}, dn);
  adapt_down_gradient<Device, T>(device, down, dxa, n, slot_down(dlora, s, kAttnAdapters));
}

#define FAIRWAY_INSTANTIATE(T)                                                \
  template RopeTable<T> take_rope_table(const ModelConfig&, int64_t, Arena&); \
  template AttnScratch<T> take_attn_scratch(const ModelConfig&, int64_t, Arena&, const LoraConfig*);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

#define FAIRWAY_INSTANTIATE(Device, T)                                                   \
  template void attn_forward(Device&, const Network&, int, const Layer<const T>&,        \
                             const Lora<const Accum<T>>*, const AttentionSegments&,      \
                             const RopeTable<T>&, Tensor<const T>, const VisitActs<T>&,  \
                             Tensor<const T>, Tensor<T>);                                \
  template void attn_backward(Device&, const Network&, int, const Layer<const T>&,       \
                              const Lora<const Accum<T>>*, const AttentionSegments&,     \
                              const RopeTable<T>&, Tensor<const T>, const VisitActs<T>&, \
                              Tensor<const T>, Tensor<T>, const Layer<Accum<T>>&,        \
                              Tensor<Accum<T>>, const Lora<Accum<T>>*, const AttnScratch<T>&);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
