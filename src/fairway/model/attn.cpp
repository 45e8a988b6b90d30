#include "fairway/model/attn.h"

#include "fairway/model/adapters.h"
#include "fairway/model/instantiate.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_xsa.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_xsa.h"
#include "fairway/ops/qkv_rope.h"
#include "fairway/ops/rms_norm.h"
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
  AttnScratch<T> s;
  s.dy = arena.take<T>("attention gradients", q);
  s.dq = arena.take<T>("attention gradients", q);
  s.dk = arena.take<T>("attention gradients", kv);
  s.dv = arena.take<T>("attention gradients", kv);
  s.delta = arena.take<Accum<T>>("attention gradients", {c.num_heads, rows});
  if (lora) s.dxa = arena.take<T>("adapters", {rows, lora->attn_columns()});
  return s;
}

template <class T>
AttnScratch<T> take_picked_attn_scratch(const AttnScratch<T>& all, int64_t queries, Arena& arena,
                                        const LoraConfig* lora) {
  const int64_t heads = all.dq.extent(1), width = heads * all.dq.extent(2);
  AttnScratch<T> s = all;
  s.dy.shape = s.dq.shape = {queries, heads, all.dq.extent(2)};
  s.delta.shape = {heads, queries};
  s.picked_dn = arena.take<T>("attention gradients", {queries, width});
  if (!lora) return s;
  s.dxa.shape = {all.dxa.extent(0), lora->key_columns()};
  s.picked_dxa = arena.take<T>("adapters", {queries, lora->query_columns()});
  return s;
}

namespace {

// xa, and q, k and v from it and attn_in.
template <class Device, class T>
void project(Device& device, const Network& net, int s, const Layer<const T>& layer,
             const Lora<const Accum<T>>* lora, const RopeTable<T>& rope,
             const AttnQueries<T>& queries, const VisitActs<T>& acts) {
  const QkvMaps<T> maps{layer.wq,    layer.wk,  layer.wv,           layer.q_gain,
                        rope.cosine, rope.sine, net.config.norm_eps};
  const QkvRotated<T> qkv{acts.q_rot, acts.k_rot, acts.v, acts.rstd_q, acts.rstd_k};
  const auto up = [&](const auto* adapters, Adapter kind, AdapterGroup group) {
    return slot_up(adapters, s, kind, group);
  };
  const PickedRows<T>& picked = acts.picked;
  if (!picked) {
    adapt_down<Device, T>(device, slot_down(lora, s, kAttnAdapters), acts.attn_in, acts.attn_xa);
    qkv_rope_adapted<T>(device, acts.attn_in, maps,
                        {up(lora, Adapter::q, kAttnAdapters), up(lora, Adapter::k, kAttnAdapters),
                         up(lora, Adapter::v, kAttnAdapters), acts.attn_xa},
                        qkv);
    return;
  }
  QkvMaps<T> keys = maps, of_q = maps;
  keys.wq = {};
  adapt_down<Device, T>(device, slot_down(lora, s, kKeyAdapters), acts.attn_in, acts.attn_xa);
  qkv_rope_adapted<T>(
      device, acts.attn_in, keys,
      {{}, up(lora, Adapter::k, kKeyAdapters), up(lora, Adapter::v, kKeyAdapters), acts.attn_xa},
      {{}, qkv.k_rot, qkv.v, {}, qkv.rstd_k});
  of_q.wk = of_q.wv = {};
  of_q.cosine = queries.rope.cosine;
  of_q.sine = queries.rope.sine;
  adapt_down<Device, T>(device, slot_down(queries.lora, s, kQueryAdapters), picked.attn_in,
                        picked.attn_xa);
  qkv_rope_adapted<T>(device, picked.attn_in, of_q,
                      {up(queries.lora, Adapter::q, kQueryAdapters), {}, {}, picked.attn_xa},
                      {qkv.q_rot, {}, {}, qkv.rstd_q, {}});
}

}  // namespace

template <class Device, class T>
void attn_forward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, const RopeTable<T>& rope,
                  const AttnQueries<T>& queries, Tensor<const T> wo_scaled,
                  const VisitActs<T>& acts, Tensor<const T> residual, Tensor<T> out) {
  project<Device, T>(device, net, s, layer, lora, rope, queries, acts);
  if (net.route[static_cast<size_t>(s)].xsa)
    attention_xsa<T>(device, acts.q_rot, acts.k_rot, acts.v, queries.segments, acts.y, acts.lse,
                     acts.y_dot_v, layer.q_gain);
  else
    attention_varlen<T>(device, acts.q_rot, acts.k_rot, acts.v, queries.segments, acts.y, acts.lse,
                        layer.q_gain);
  const AdapterGroup group = acts.picked ? kQueryAdapters : kAttnAdapters;
  linear_adapted<T>(device, acts.y, wo_scaled, residual,
                    {slot_up(queries.lora, s, Adapter::o, group, layer.attn_scale.data),
                     acts.picked ? acts.picked.attn_xa : acts.attn_xa},
                    out);
}

template <class Device, class T>
void attn_backward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                   const Lora<const Accum<T>>* lora, const RopeTable<T>& rope,
                   const AttnQueries<T>& queries, Tensor<const T> wo_scaled,
                   const TransposedWeights<T>& transposed, const VisitActs<T>& acts,
                   Tensor<const T> dout, Tensor<T> dn, const Layer<Accum<T>>& dlayer,
                   Tensor<Accum<T>> dwo_scaled, const Lora<T>* dlora,
                   const AttnScratch<T>& scratch) {
  const PickedRows<T>& picked = acts.picked;
  const Tensor<const T> n = acts.attn_in;
  const auto& [dy, dq, dk, dv, delta, dxa, picked_dn, picked_dxa] = scratch;
  const RopeBackward<T> through_rope{acts.rstd_q,         acts.rstd_k,      layer.q_gain,
                                     rope.cosine,         rope.sine,        dlayer.q_gain,
                                     queries.rope.cosine, queries.rope.sine};
  if (dwo_scaled) linear_backward_weight<T>(device, dout, acts.y, dwo_scaled);
  if (net.route[static_cast<size_t>(s)].xsa) {
    linear_xsa_backward<T>(device, dout, wo_scaled, acts.y, acts.v, acts.y_dot_v, dy, dv, delta,
                           queries.segments.query_rows, transposed.wo);
  } else {
    linear_backward_input<T>(device, dout, wo_scaled, dy, false);
    attention_delta<T>(device, acts.y, dy, delta);
    device.zero(dv.data, static_cast<size_t>(dv.size()) * sizeof(T));
  }
  attention_varlen_backward<T>(device, acts.q_rot, acts.k_rot, acts.v, queries.segments, acts.lse,
                               dy, delta, dq, dk, dv, &through_rope);
  if (dlayer.wq && picked) {
    linear_backward_weight<T>(device, dq, picked.attn_in, dlayer.wq);
    linear_backward_weight<T>(device, dk, n, dlayer.wk);
    linear_backward_weight<T>(device, dv, n, dlayer.wv);
  } else if (dlayer.wq) {
    linear_three_backward_weight<T>(device, {dq, dk, dv}, n, {dlayer.wq, dlayer.wk, dlayer.wv});
  }
  const auto up = [&](const auto* adapters, Adapter kind, AdapterGroup group, Tensor<const T> d,
                      const Accum<T>* out_scale = nullptr) {
    return adapted_up<T>(slot_up(adapters, s, kind, group, out_scale), d,
                         slot_up(dlora, s, kind, group));
  };
  if (!picked) {
    const AdapterGroup all = kAttnAdapters;
    adapt_ups_backward<Device, T>(
        device,
        {up(lora, Adapter::q, all, dq), up(lora, Adapter::k, all, dk),
         up(lora, Adapter::v, all, dv), up(lora, Adapter::o, all, dout, layer.attn_scale.data)},
        acts.attn_xa, dxa);
    const auto down = slot_down(lora, s, all);
    if (dn)
      linear_three_adapted_backward_input<T>(
          device, {{dq, dk, dv}, {layer.wq, layer.wk, layer.wv}, transposed.qkv}, {down, dxa}, dn);
    adapt_down_gradient<Device, T>(device, down, dxa, n, slot_down(dlora, s, all));
    return;
  }
  adapt_ups_backward<Device, T>(
      device, {up(lora, Adapter::k, kKeyAdapters, dk), up(lora, Adapter::v, kKeyAdapters, dv)},
      acts.attn_xa, dxa);
  adapt_ups_backward<Device, T>(
      device,
      {up(queries.lora, Adapter::q, kQueryAdapters, dq),
       up(queries.lora, Adapter::o, kQueryAdapters, dout, layer.attn_scale.data)},
      picked.attn_xa, picked_dxa);
  const auto down = slot_down(lora, s, kKeyAdapters);
  const auto down_of_q = slot_down(queries.lora, s, kQueryAdapters);
  if (dn) {
    linear_adapted_backward_input<T>(device, dk, layer.wk, {down, dxa}, dn);
    linear_backward_input<T>(device, dv, layer.wv, dn, true);
    linear_adapted_backward_input<T>(device, dq, layer.wq, {down_of_q, picked_dxa}, picked_dn);
    add_rows<T>(device, picked_dn, queries.segments.query_rows, dn);
  }
  adapt_down_gradient<Device, T>(device, down, dxa, n, slot_down(dlora, s, kKeyAdapters));
  adapt_down_gradient<Device, T>(device, down_of_q, picked_dxa, picked.attn_in,
                                 slot_down(dlora, s, kQueryAdapters));
}

#define FAIRWAY_INSTANTIATE(T)                                                             \
  template RopeTable<T> take_rope_table(const ModelConfig&, int64_t, Arena&);              \
  template AttnScratch<T> take_attn_scratch(const ModelConfig&, int64_t, Arena&,           \
                                            const LoraConfig*);                            \
  template AttnScratch<T> take_picked_attn_scratch(const AttnScratch<T>&, int64_t, Arena&, \
                                                   const LoraConfig*);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

#define FAIRWAY_INSTANTIATE(Device, T)                                                           \
  template void attn_forward(Device&, const Network&, int, const Layer<const T>&,                \
                             const Lora<const Accum<T>>*, const RopeTable<T>&,                   \
                             const AttnQueries<T>&, Tensor<const T>, const VisitActs<T>&,        \
                             Tensor<const T>, Tensor<T>);                                        \
  template void attn_backward(                                                                   \
      Device&, const Network&, int, const Layer<const T>&, const Lora<const Accum<T>>*,          \
      const RopeTable<T>&, const AttnQueries<T>&, Tensor<const T>, const TransposedWeights<T>&,  \
      const VisitActs<T>&, Tensor<const T>, Tensor<T>, const Layer<Accum<T>>&, Tensor<Accum<T>>, \
      const Lora<T>*, const AttnScratch<T>&);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
