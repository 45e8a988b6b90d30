// The walk along the route, forward and back. The sub-layers are in attn.cpp and mlp.cpp, the head
// in head.cpp, the joints of the residual stream in ops/mix_norm.h and ops/residual.h.
#include "fairway/model/model.h"

#include <algorithm>
#include <vector>

#include "fairway/model/attn.h"
#include "fairway/model/head.h"
#include "fairway/model/instantiate.h"
#include "fairway/model/layer.h"
#include "fairway/model/mlp.h"
#include "fairway/ops/embedding.h"
#include "fairway/ops/fold_scale.h"
#include "fairway/ops/fold_skips.h"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rope_gain.h"
#include "fairway/ops/transposed_weights.h"

namespace fairway {

namespace {

template <class T>
struct ForwardScratch {
  RopeTable<T> rope, picked_rope;  // the latter of the rows that reach the head, if not all do
  Tensor<T> u, h;                  // [T, D] the stream before and after attention
};
template <class T>
ForwardScratch<T> take_forward_scratch(const Network& net, int64_t rows, int64_t head_rows,
                                       Arena& arena) {
  const auto stream = [&] {
    return arena.take<T>("forward scratch", {rows, net.config.model_dim});
  };
  ForwardScratch<T> s;
  s.rope = take_rope_table<T>(net.config, rows, arena);
  if (head_rows < rows) s.picked_rope = take_rope_table<T>(net.config, head_rows, arena);
  s.u = stream();
  s.h = stream();
  return s;
}

// Gradients within a visit, [rows, D] each.
template <class T>
struct VisitGradients {
  Tensor<T> d0, d1;  // of the stream (lane 0) and of lane 1
  Tensor<T> da, dm;  // of what parallel sub-layers add
  Tensor<T> dn;      // of a sub-layer's input
};
template <class T>
VisitGradients<T> take_visit_gradients(int64_t rows, int64_t D, Arena& arena) {
  VisitGradients<T> g;
  for (Tensor<T>* t : {&g.d0, &g.d1, &g.da, &g.dm, &g.dn})
    *t = arena.take<T>("backward scratch", {rows, D});
  return g;
}

// What is named `picked` is of the rows that reach the head, if not all do.
template <class T>
struct BackwardScratch {
  RopeTable<T> rope, picked_rope;
  AttnScratch<T> attn, picked_attn;
  VisitGradients<T> all, picked;
  Tensor<T> dx0;    // [T, D]
  Tensor<T> dskip;  // [num_skip, T, D] gradients on their way from a skip's end to its source
  // Gradients of the folded matrices; null without weight gradients.
  Tensor<Accum<T>> dwo_scaled, dwdown_scaled;
  Tensor<Accum<T>> dskips;  // like FoldedWeights::skips; null without weight gradients
  Tensor<T> mlp_dxa;        // like VisitActs::mlp_xa
};
template <class T>
BackwardScratch<T> take_backward_scratch(const Network& net, int64_t rows, int64_t head_rows,
                                         bool with_weights, Arena& arena, const LoraConfig* lora) {
  const int64_t D = net.config.model_dim, L = net.config.num_layers;
  BackwardScratch<T> s;
  s.rope = take_rope_table<T>(net.config, rows, arena);
  s.attn = take_attn_scratch<T>(net.config, rows, arena, lora);
  s.all = take_visit_gradients<T>(rows, D, arena);
  s.dx0 = arena.take<T>("backward scratch", {rows, D});
  if (head_rows < rows) {
    s.picked_rope = take_rope_table<T>(net.config, head_rows, arena);
    s.picked_attn = take_picked_attn_scratch<T>(s.attn, head_rows, arena, lora);
    s.picked = take_visit_gradients<T>(head_rows, D, arena);
  }
  s.dskip = arena.take<T>("skip gradients", {num_skip_weights(net.config), rows, D});
  if (with_weights) {
    s.dwo_scaled = arena.take<Accum<T>>("scaled matrices", {L, D, D});
    s.dwdown_scaled = arena.take<Accum<T>>("scaled matrices", {L, D, net.config.mlp_dim()});
    s.dskips = arena.take<Accum<T>>("skip connections", {num_skip_weights(net.config), 2, D});
  }
  if (lora && lora->mlp) s.mlp_dxa = arena.take<T>("adapters", {rows, lora->mlp_columns()});
  return s;
}

// Where visit s leaves the residual stream (lane 0).
template <class T>
Tensor<T> output_of(const Network& net, const Acts<T>& acts, int s) {
  return s + 1 < net.slots() ? acts.visits[static_cast<size_t>(s + 1)].x_pre : acts.final_x;
}

// What enters the block of visit s.
template <class T>
BlockInput<T> block_input(const Network& net, const Acts<T>& acts, int s) {
  const Visit& visit = net.route[static_cast<size_t>(s)];
  const Tensor<T> x_pre = acts.visits[static_cast<size_t>(s)].x_pre;
  if (visit.skip < 0) return {x_pre, {}, {}};
  return {x_pre, output_of(net, acts, visit.skip_from), acts.folded.skips.slice(visit.skip)};
}

LaneShares lane_shares(FinalLane lane) {
  switch (lane) {
    case FinalLane::mean:
      return {0.5, 0.5};
    case FinalLane::mlp:
      return {0, 1};
    case FinalLane::attn:
      return {1, 0};
  }
  return {};
}

template <class T>
LaneJoin<T> lane_join_of(const VisitActs<T>& v, const Layer<const T>& layer) {
  const bool picks = static_cast<bool>(v.picked);
  return {picks ? v.picked.x : v.x, picks ? v.picked.lane1 : v.lane1, v.a, v.m, layer.post_lambdas,
          layer.resid_lambdas};
}

// A matrix of all layers: the first or second half of a bank.
template <class T>
Tensor<T> half_of(Tensor<T> bank, int half) {
  bank.shape.extent[0] /= 2;
  bank.data += half * bank.size();
  return bank;
}
template <class T>
Tensor<T> wo_bank(const Weights<T>& w) {
  return half_of(w.qo_bank, 1);
}

template <class Device, class T>
AttentionSegments plan_segments(Device& device, const ModelConfig& c, const Batch& batch) {
  return attention_plan<T>(device, {batch.T(), c.num_heads, c.num_kv_heads, c.head_dim()},
                           batch.cu_seqlens);
}

// The rows that reach the head as the last visit's queries, where `batch` picks them. `rope`, that
// of all rows, is gathered into `picked`.
template <class Device, class T>
AttnQueries<T> pick_queries(Device& device, const Batch& batch, const RopeTable<T>& rope,
                            const RopeTable<T>& picked, const Lora<const Accum<T>>* head_lora) {
  if (batch.rows) {
    gather_rows<Accum<T>>(device, rope.cosine, batch.rows, picked.cosine);
    gather_rows<Accum<T>>(device, rope.sine, batch.rows, picked.sine);
  }
  return {{batch.cu_seqlens, batch.cu_rows, batch.rows}, picked, head_lora};
}

// The first n rows of scratch.
template <class T>
Tensor<T> first_rows(Tensor<T> t, int64_t n) {
  t.shape.extent[0] = n;
  return t;
}

template <class T>
Tensor<T> row_of(Tensor<T> t, int i) {
  return t ? t.slice(i) : Tensor<T>{};
}

// Null where there is none.
template <class T>
Tensor<T> take_last(std::vector<Tensor<T>>& list) {
  if (list.empty()) return {};
  const Tensor<T> last = list.back();
  list.pop_back();
  return last;
}

template <class T>
size_t bytes_of(Tensor<T> t) {
  return static_cast<size_t>(t.size()) * sizeof(T);
}
template <class Device, class T>
void zero(Device& device, Tensor<T> t) {
  device.zero(t.data, bytes_of(t));
}

// The gradient of all rows, of which only those of `rows` have one.
template <class Device, class T>
void spread_rows(Device& device, Tensor<const T> picked, Tensor<const int32_t> rows,
                 Tensor<T> all) {
  zero(device, all);
  add_rows<T>(device, picked, rows, all);
}

}  // namespace

template <class T>
size_t scratch_bytes(const Network& net, int64_t rows, int64_t head_rows, bool for_backward,
                     const LoraConfig* lora) {
  Arena forward_arena, head_arena, backward_arena;
  take_forward_scratch<T>(net, rows, head_rows, forward_arena);
  take_head_scratch<T>(net.config, head_rows, for_backward, head_arena, lora);
  if (for_backward) take_backward_scratch<T>(net, rows, head_rows, true, backward_arena, lora);
  return std::max({forward_arena.peak(), head_arena.peak(), backward_arena.peak()});
}

template <class Device, class T>
void fold_weights(Device& device, const ModelConfig& config, const Weights<const T>& w,
                  const FoldedWeights<T>& folded) {
  fold_scale<T>(device, wo_bank(w), w.attn_scale, folded.wo);
  fold_scale<T>(device, w.mlp_down_bank, w.mlp_scale, folded.wdown);
  fold_skips<T>(device, w.skip_weights, w.skip_gates, folded.skips);
  if (!folded.mlp_e4m3) return;
  std::vector<double> ln(static_cast<size_t>(config.num_layers));
  for (int i = 0; i < config.num_layers; ++i) ln[static_cast<size_t>(i)] = config.ln(i);
  mlp_e4m3_weights<T>(device, w.mlp_up_bank, folded.wdown, ln, folded.mlp_e4m3);
}

template <class Device, class T>
void forward(Device& device, const Network& net, const Weights<const T>& w,
             const Lora<const Accum<T>>* lora, const Batch& batch, const Acts<T>& acts,
             Arena arena) {
  const ModelConfig& c = net.config;
  check(static_cast<bool>(acts.visits.back().picked) == static_cast<bool>(batch.rows),
        "forward: activations laid out for other head rows");
  const int64_t N = acts.final_x.extent(0);
  const ForwardScratch<T> scratch = take_forward_scratch<T>(net, batch.T(), N, arena);
  const auto& [rope, picked_rope, u, h] = scratch;
  rope_table<T>(device, batch.cu_seqlens, c.rotary_dims(), c.rope_base, rope.cosine, rope.sine);
  embed<T>(device, batch.inputs, w.tok_emb, c.norm_eps, acts.emb_rstd, acts.x0);

  const AttnQueries<T> all_queries{plan_segments<Device, T>(device, c, batch), rope, lora};
  const auto head_lora = lora ? lora->of_head_rows() : Lora<const Accum<T>>{};
  const AttnQueries<T> picked_queries =
      pick_queries<Device, T>(device, batch, rope, picked_rope, lora ? &head_lora : nullptr);

  for (int s = 0; s < net.slots(); ++s) {
    const Visit& visit = net.route[static_cast<size_t>(s)];
    const VisitActs<T>& v = acts.visits[static_cast<size_t>(s)];
    const Layer<const T> layer = layer_of(w, visit.layer);
    const Tensor<const T> wo = acts.folded.wo.slice(visit.layer);
    const Tensor<const T> wdown = acts.folded.wdown.slice(visit.layer);
    const MlpE4m3<T> e4m3 = acts.folded.mlp_e4m3.slice(visit.layer);
    const bool serial = visit.join == Join::serial;
    const double ln = c.ln(visit.layer);
    mix_norm<T>(device, block_input(net, acts, s), acts.x0, layer.resid_mix, c.norm_eps, ln,
                visit.skip >= 0 ? v.x : Tensor<T>{}, serial ? u : Tensor<T>{}, v.rstd_attn,
                v.attn_in);
    const bool picks = static_cast<bool>(v.picked);
    const AttnQueries<T>& queries = picks ? picked_queries : all_queries;
    if (picks) gather_rows<T>(device, v.attn_in, batch.rows, v.picked.attn_in);
    if (serial) {
      Tensor<T> before = u, after = h;
      if (picks) {
        // Not in place: a library's product may round another way then.
        before = first_rows(h, N);
        after = first_rows(u, N);
        gather_rows<T>(device, u, batch.rows, before);
      }
      attn_forward<Device, T>(device, net, s, layer, lora, rope, queries, wo, v, before, after);
      mlp_forward<Device, T>(device, net, s, layer, queries.lora, wdown, e4m3, v, after, after,
                             output_of(net, acts, s));
    } else {
      if (picks) {
        gather_rows<T>(device, v.x, batch.rows, v.picked.x);
        gather_rows<T>(device, v.lane1, batch.rows, v.picked.lane1);
      }
      const LaneJoin<T> join = lane_join_of(v, layer);
      attn_forward<Device, T>(device, net, s, layer, lora, rope, queries, wo, v, {}, v.a);
      mlp_forward<Device, T>(device, net, s, layer, queries.lora, wdown, e4m3, v, join.lane1, {},
                             v.m);
      if (s + 1 < net.slots())
        lane_join<T>(device, join, output_of(net, acts, s),
                     acts.visits[static_cast<size_t>(s + 1)].lane1);
      else
        lane_end<T>(device, join, lane_shares(c.parallel_final_lane), acts.final_x);
    }
  }
}

template <class Device, class T>
void backward(Device& device, const Network& net, const Weights<const T>& w,
              const Lora<const Accum<T>>* lora, const Batch& batch, const Acts<T>& acts,
              const Weights<Accum<T>>* dweights, const Lora<T>* dlora, Arena arena) {
  const ModelConfig& c = net.config;
  const int64_t N = acts.final_x.extent(0);
  const BackwardScratch<T> scratch = take_backward_scratch<T>(
      net, batch.T(), N, dweights != nullptr, arena, lora ? &lora->layout->config() : nullptr);
  const auto& [rope, picked_rope, all_attn, picked_attn, all, picked, dx0, dskip, dwo_bank,
               dwdown_bank, dskips, mlp_dxa] = scratch;
  rope_table<T>(device, batch.cu_seqlens, c.rotary_dims(), c.rope_base, rope.cosine, rope.sine);
  const AttnQueries<T> all_queries{plan_segments<Device, T>(device, c, batch), rope, lora};
  const auto head_lora = lora ? lora->of_head_rows() : Lora<const Accum<T>>{};
  const AttnQueries<T> picked_queries =
      pick_queries<Device, T>(device, batch, rope, picked_rope, lora ? &head_lora : nullptr);
  // Adapters alone need no gradient of x0, nor of the first visit's input.
  const Tensor<T> to_x0 = dweights ? dx0 : Tensor<T>{};
  if (dweights) {
    zero(device, dwo_bank);
    zero(device, dwdown_bank);
    zero(device, dskips);
  }

  // Once for all visits of a layer.
  BackwardWeights<T> read{
      half_of(w.qo_bank, 0), half_of(w.kv_bank, 0), half_of(w.kv_bank, 1), acts.folded.wo, {}, {}};
  if (!acts.folded.mlp_e4m3) {
    read.wup = w.mlp_up_bank;
    read.wdown = acts.folded.wdown;
  }
  const TransposedWeights<T> all_transposed = transposed_weights<T>(device, read);

  // The gradient of the last visit's output; lane_end_backward goes by acts.d_final_x itself.
  if (net.route.back().join == Join::serial)
    scale_to<T>(device, acts.d_final_x, 1.0, batch.rows ? picked.d0 : all.d0);

  // d0 as the e4m3 operand of the MLP that goes back first, where it is one and the op that writes
  // d0 makes it.
  E4m3Rows d0_e4m3;
  for (int s = net.slots() - 1; s >= 0; --s) {
    const Visit& visit = net.route[static_cast<size_t>(s)];
    const VisitActs<T>& v = acts.visits[static_cast<size_t>(s)];
    const Layer<const T> layer = layer_of(w, visit.layer);
    const Layer<Accum<T>> dlayer = gradients_of(dweights, visit.layer);
    const Tensor<const T> wo = acts.folded.wo.slice(visit.layer);
    const Tensor<const T> wdown = acts.folded.wdown.slice(visit.layer);
    const MlpE4m3<T> e4m3 = acts.folded.mlp_e4m3.slice(visit.layer);
    const TransposedWeights<T> transposed = all_transposed.slice(visit.layer);
    const Tensor<Accum<T>> dwo = row_of(dwo_bank, visit.layer);
    const Tensor<Accum<T>> dwdown = row_of(dwdown_bank, visit.layer);
    const double ln = c.ln(visit.layer);
    const bool ends_here = s == 0 && !dweights;
    const Tensor<T> attn_dn = ends_here ? Tensor<T>{} : all.dn;
    const bool picks = static_cast<bool>(v.picked);
    const AttnQueries<T>& queries = picks ? picked_queries : all_queries;
    const AttnScratch<T>& attn = picks ? picked_attn : all_attn;
    const auto& [d0, d1, da, dm, dn] = picks ? picked : all;
    const Tensor<T> dxa_of_mlp = first_rows(mlp_dxa, d0.extent(0));
    // d0 is the gradient of this visit's output and becomes that of its input, to which skip
    // connections and lane 1 bring gradients back too. The last op that writes d0 adds one of them
    // without a pass of its own.
    std::vector<Tensor<const T>> joining;
    if (visit.first_parallel) joining.push_back(all.d1);
    for (const Visit& later : net.route)
      if (later.skip >= 0 && later.skip_from == s - 1 && &later != &visit)
        joining.push_back(dskip.slice(later.skip));

    MixNormBackward<T> into{all.dn,  v.attn_in,       v.rstd_attn, ln, block_input(net, acts, s),
                            acts.x0, layer.resid_mix, {},          {}, {}};
    if (visit.join == Join::serial) {
      mlp_backward<Device, T>(device, net, s, layer, queries.lora, wdown, transposed.mlp, e4m3, v,
                              d0, d0, dn, dlayer, dwdown, dlora, dxa_of_mlp,
                              d0_e4m3);  // d0 is now dh
      attn_backward<Device, T>(device, net, s, layer, lora, rope, queries, wo, transposed, v, d0,
                               attn_dn, dlayer, dwo, dlora, attn);
      if (ends_here) break;
      if (picks) spread_rows<Device, T>(device, d0, batch.rows, all.d0);
      into.du = all.d0;  // u reaches h beside attention too
    } else {
      const LaneJoin<T> join = lane_join_of(v, layer);
      if (s + 1 < net.slots())
        lane_join_backward<T>(device, join, d0, d1, da, dm, dlayer.post_lambdas,
                              dlayer.resid_lambdas);
      else
        lane_end_backward<T>(device, join, lane_shares(c.parallel_final_lane), acts.d_final_x, d0,
                             d1, da, dm, dlayer.post_lambdas, dlayer.resid_lambdas);
      mlp_backward<Device, T>(device, net, s, layer, queries.lora, wdown, transposed.mlp, e4m3, v,
                              dm, d1, dn, dlayer, dwdown, dlora, dxa_of_mlp, {});
      attn_backward<Device, T>(device, net, s, layer, lora, rope, queries, wo, transposed, v, da,
                               attn_dn, dlayer, dwo, dlora, attn);
      if (ends_here) break;
      if (picks) {
        spread_rows<Device, T>(device, d0, batch.rows, all.d0);
        spread_rows<Device, T>(device, d1, batch.rows, all.d1);
      }
      into.dx = all.d0;  // lane 0 goes on beside the block
    }
    into.dx_pre = take_last(joining);
    MixNormGradients<T> to{all.d0, {}, to_x0, dlayer.resid_mix, {}};
    if (s == 0) to.x_pre = {};  // it is x0 itself
    if (visit.skip >= 0) {
      if (visit.skip_from != s - 1) to.k = dskip.slice(visit.skip);  // else k is x_pre
      to.skip = row_of(dskips, visit.skip);
    }
    d0_e4m3 = {};
    if (acts.folded.mlp_e4m3 && s > 0 && joining.empty() &&
        net.route[static_cast<size_t>(s - 1)].join == Join::serial)
      d0_e4m3 = mlp_e4m3_dm_rows<T>(device, batch.T(), c.model_dim, c.mlp_dim());
    to.x_pre_e4m3 = d0_e4m3;
    to.first_of_x0 = s + 1 == net.slots();
    mix_norm_backward<T>(device, into, to);
    while (!joining.empty()) add<T>(device, take_last(joining), all.d0);
  }
  if (dweights) {
    fold_scale_backward<T>(device, dwo_bank, wo_bank(w), w.attn_scale, wo_bank(*dweights),
                           dweights->attn_scale);
    fold_scale_backward<T>(device, dwdown_bank, w.mlp_down_bank, w.mlp_scale,
                           dweights->mlp_down_bank, dweights->mlp_scale);
    fold_skips_backward<T>(device, dskips, w.skip_weights, w.skip_gates, dweights->skip_weights,
                           dweights->skip_gates);
    embed_backward<T>(device, batch.inputs, w.tok_emb, acts.emb_rstd, dx0, dweights->tok_emb);
  }
}

#define FAIRWAY_INSTANTIATE(T) \
  template size_t scratch_bytes<T>(const Network&, int64_t, int64_t, bool, const LoraConfig*);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

#define FAIRWAY_INSTANTIATE(Device, T)                                                     \
  template void fold_weights(Device&, const ModelConfig&, const Weights<const T>&,         \
                             const FoldedWeights<T>&);                                     \
  template void forward(Device&, const Network&, const Weights<const T>&,                  \
                        const Lora<const Accum<T>>*, const Batch&, const Acts<T>&, Arena); \
  template void backward(Device&, const Network&, const Weights<const T>&,                 \
                         const Lora<const Accum<T>>*, const Batch&, const Acts<T>&,        \
                         const Weights<Accum<T>>*, const Lora<T>*, Arena);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
