#include "fairway/model/acts.h"

#include <algorithm>
#include <complex>

#include "fairway/model/instantiate.h"
#include "fairway/model/weights.h"

namespace fairway {

namespace {

// Whether some later visit takes the output of visit s through a skip connection.
bool is_skip_source(const Route& route, int s) {
  return std::any_of(route.begin(), route.end(), [&](const Visit& v) { return v.skip_from == s; });
}

// The tensors that a sub-layer fills, N of its T rows going on from attention's input; one set a
// visit for a backward pass, one set in all without.
template <class T>
VisitActs<T> take_visit(const ModelConfig& c, int64_t T_, int64_t N, bool keep, Arena& arena,
                        const LoraConfig* lora, E4m3Mlp mlp) {
  const bool picks = N < T_;
  const int64_t D = c.model_dim, H = c.num_heads, K = c.num_kv_heads, d = c.head_dim();
  VisitActs<T> v;
  v.rstd_attn = arena.take<Accum<T>>("norms", {T_});
  v.attn_in = arena.take<T>("sub-layer inputs", {T_, D});
  v.q_rot = arena.take<T>("q, k, v", {N, H, d});
  v.k_rot = arena.take<T>("q, k, v", {T_, K, d});
  v.v = arena.take<T>("q, k, v", {T_, K, d});
  v.rstd_q = arena.take<Accum<T>>("norms", {N, H});
  v.rstd_k = arena.take<Accum<T>>("norms", {T_, K});
  v.lse = arena.take<Accum<T>>("attention lse", {H, N});
  v.y = arena.take<T>("attention y", {N, H, d});
  v.y_dot_v = arena.take<Accum<T>>("attention y·v", {N, H});
  v.rstd_mlp = arena.take<Accum<T>>("norms", {N});
  v.mlp_in = arena.take<T>("sub-layer inputs", {N, D});
  if (lora) {
    v.attn_xa = arena.take<T>("adapters", {T_, picks ? lora->key_columns() : lora->attn_columns()});
    if (lora->mlp) v.mlp_xa = arena.take<T>("adapters", {N, lora->mlp_columns()});
  }
  if (picks) {
    v.picked.attn_in = arena.take<T>("sub-layer inputs", {N, D});
    if (lora) v.picked.attn_xa = arena.take<T>("adapters", {N, lora->query_columns()});
  }
  if (keep) {
    const auto hidden = [&]<class U>(U) { return arena.take<U>("MLP hidden", {N, c.mlp_dim()}); };
    if (mlp == E4m3Mlp::bytes) {
      if (!lora) v.hidden.f = hidden(e4m3());  // the gradient of Wdown alone reads it again
      v.hidden.z_rounded = hidden(e4m3());
    } else {
      v.hidden.z = hidden(T());
      if (mlp == E4m3Mlp::off)
        v.hidden.signs =
            arena.take<uint32_t>("MLP hidden", {mlp_sign_words<T>(N, int64_t{c.mlp_dim()})});
    }
  }
  return v;
}

}  // namespace

template <class T>
FoldedWeights<T> take_folded(const ModelConfig& config, E4m3Mlp mlp, Arena& arena) {
  const int64_t D = config.model_dim, F = config.mlp_dim(), L = config.num_layers;
  FoldedWeights<T> folded;
  folded.wo = arena.take<T>("scaled matrices", {L, D, D});
  folded.wdown = arena.take<T>("scaled matrices", {L, D, F});
  folded.skips = arena.take<Accum<T>>("skip connections", {num_skip_weights(config), 2, D});
  if (mlp == E4m3Mlp::off) return folded;
  folded.mlp_e4m3.wup = arena.take<T>("e4m3 matrices", {L, F, D});
  folded.mlp_e4m3.wdown = arena.take<T>("e4m3 matrices", {L, D, F});
  folded.mlp_e4m3.exponents = arena.take<int32_t>("e4m3 matrices", {L, kE4m3Exponents});
  return folded;
}

template <class T>
Acts<T> take_acts(const ModelConfig& config, const Route& route, int64_t rows, int64_t head_rows,
                  bool for_backward, Arena& arena, const LoraConfig* lora, E4m3Mlp mlp) {
  const int64_t D = config.model_dim;
  const int slots = static_cast<int>(route.size());
  const auto stream_of = [&](int64_t n) { return arena.take<T>("residual stream", {n, D}); };
  const auto stream = [&] { return stream_of(rows); };
  Acts<T> acts;
  acts.emb_rstd = arena.take<Accum<T>>("norms", {rows});
  acts.x0 = stream();
  // Without a backward pass, streams alternate between two buffers; only skip sources are kept.
  VisitActs<T> shared;
  Tensor<T> lane0[2], lane1[2], mixed, lane_a, lane_m;
  if (!for_backward) shared = take_visit<T>(config, rows, rows, false, arena, lora, mlp);
  // A visit's own, or the buffer, which the first visit that needs it takes.
  const auto stream_in = [&](Tensor<T>& buffer) {
    if (for_backward) return stream();
    if (buffer.shape.rank == 0) buffer = stream();
    return buffer;
  };
  for (int s = 0; s < slots; ++s) {
    const Visit& visit = route[static_cast<size_t>(s)];
    const bool picks = s + 1 == slots && head_rows < rows;
    VisitActs<T> v = for_backward || picks ? take_visit<T>(config, rows, picks ? head_rows : rows,
                                                           for_backward, arena, lora, mlp)
                                           : shared;
    if (s == 0)
      v.x_pre = acts.x0;
    else if (is_skip_source(route, s - 1))
      v.x_pre = stream();
    else
      v.x_pre = stream_in(lane0[s % 2]);
    if (visit.join == Join::parallel) {
      v.x = v.x_pre;
      if (visit.skip >= 0) v.x = stream_in(mixed);
      if (picks)
        for (Tensor<T>* t : {&v.a, &v.m, &v.picked.x, &v.picked.lane1}) *t = stream_of(head_rows);
      else {
        v.a = stream_in(lane_a);
        v.m = stream_in(lane_m);
      }
      if (visit.first_parallel)
        v.lane1 = v.x_pre;
      else
        v.lane1 = stream_in(lane1[s % 2]);
    }
    acts.visits.push_back(v);
  }
  acts.final_x = stream_of(head_rows);
  acts.head_rstd = arena.take<Accum<T>>("norms", {head_rows});
  acts.head_in = arena.take<T>("head input", {head_rows, D});
  if (for_backward) acts.d_final_x = stream_of(head_rows);
  return acts;
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template FoldedWeights<T> take_folded(const ModelConfig&, E4m3Mlp, Arena&);                  \
  template Acts<T> take_acts(const ModelConfig&, const Route&, int64_t, int64_t, bool, Arena&, \
                             const LoraConfig*, E4m3Mlp);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
