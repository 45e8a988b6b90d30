#include "ops.h"

#include <algorithm>

#include "documents.h"
#include "fairway/base/rng.h"
#include "fairway/model/weights.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/ema.h"
#include "fairway/ops/embedding.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/muon.h"
#include "fairway/ops/newton_schulz.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rope_gain.h"
#include "fairway/ops/softcap_xent.h"
#include "fairway/ops/xsa.h"
#include "machine.h"

namespace fairway::bench {

namespace {

using F = Tensor<float>;
using CF = Tensor<const float>;

// The best of a few runs, after one that is not counted.
template <class Run>
double best_seconds(Run&& run) {
  run();
  double best = 1e30, spent = 0;
  for (int i = 0; i < 20 && (i < 3 || spent < 0.5); ++i) {
    const double start = seconds_now();
    run();
    const double seconds = seconds_now() - start;
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

}  // namespace

OpsFigures bench_ops(const OpsOptions& o) {
  CpuDevice device(o.threads, o.precision);
  const ModelConfig& c = o.model;
  const int64_t T = o.tokens, D = c.model_dim, H = c.num_heads, K = c.num_kv_heads,
                d = c.head_dim(), kv = c.kv_dim(), hidden = c.mlp_dim(), V = c.vocab_size;
  const int64_t head_rows = std::min<int64_t>(T, 1024), half = c.rotary_dims() / 2;
  const PackedBatch batch = random_documents(T, c.vocab_size, c.max_doc_len, 1);
  const Tensor<const int32_t> tokens(batch.inputs.data(), {T});
  const Tensor<const int32_t> targets(batch.targets.data(), {head_rows});
  const Tensor<const int32_t> cu_seqlens(batch.cu_seqlens.data(), {std::ssize(batch.cu_seqlens)});
  const double pairs = attention_pairs(batch);

  OpsFigures figures;
  figures.bandwidth = copy_bandwidth(device.threads());
  figures.rate = onednn_rate(device.threads(), o.precision, T, D, hidden, false, true);

  std::vector<HostBuffer> memory;
  uint64_t stream = 0;
  const auto take = [&](Shape shape) {
    memory.emplace_back(static_cast<size_t>(shape.size()) * sizeof(float));
    F t(reinterpret_cast<float*>(memory.back().data()), shape);
    const Philox rng(3, stream++);
    for (int64_t i = 0; i < t.size(); ++i)
      t[i] = static_cast<float>(rng.uniform(static_cast<uint64_t>(i)) - 0.5);
    return t;
  };
  const auto measure = [&](const char* name, double floats, double flops, auto&& run) {
    const double bytes = 4 * floats, seconds = best_seconds(run);
    figures.ops.push_back(
        {name, seconds, bytes, flops, std::max(bytes / figures.bandwidth, flops / figures.rate)});
  };
  const auto n = [](int64_t a, int64_t b) { return static_cast<double>(a * b); };

  const F x = take({T, D}), y = take({T, D}), z = take({T, D}), rstd = take({T});
  const F mix = take({2, D}), vector = take({D}), table = take({V, D}), dtable = take({V, D});
  const F q = take({T, H, d}), k = take({T, K, d}), v = take({T, K, d});
  const F dq = take({T, H, d}), dk = take({T, K, d}), dv = take({T, K, d});
  const F yh = take({T, H, d}), dyh = take({T, H, d});
  const F lse = take({H, T}), delta = take({H, T}), ydv = take({T, H});
  const F cosine = take({T, half}), sine = take({T, half}), gain = take({H});
  const F wq = take({D, D}), dwq = take({D, D}), wup = take({hidden, D}), wdown = take({D, hidden});
  const F dwup = take({hidden, D}), dwdown = take({D, hidden});
  const F zf = take({T, hidden}), hf = take({T, hidden}), dzf = take({T, hidden});
  const F logits = take({head_rows, V}), nll = take({head_rows}), weight = take({head_rows});
  const F dmix = take({2, D}), dgain = take({H}), gate = take({D}), dvector = take({D});
  const F pl = take({2, 2}), rl = take({2}), dpl = take({2, 2}), drl = take({2}),
          lane = take({T, D});

  const double TD = n(T, D), TK = n(T, kv), TF = n(T, hidden), DF = n(D, hidden);
  measure("embed", 2 * TD, 0, [&] { embed<float>(device, tokens, table, c.norm_eps, rstd, x); });
  measure("embed backward", 3 * TD, 0,
          [&] { embed_backward<float>(device, tokens, table, rstd, y, dtable); });
  measure("rms_norm", 2 * TD, 0, [&] { rms_norm<float>(device, x, c.norm_eps, 1, rstd, y); });
  measure("rms_norm backward", 4 * TD, 0,
          [&] { rms_norm_backward<float>(device, y, x, rstd, 1, z); });
  measure("resid_mix", 3 * TD, 0, [&] { resid_mix<float>(device, x, y, mix, z); });
  measure("resid_mix backward", 6 * TD, 0,
          [&] { resid_mix_backward<float>(device, x, y, z, mix, false, yh, dyh, dmix); });
  measure("scaled_add", 3 * TD, 0, [&] { scaled_add<float>(device, x, vector, y, z); });
  measure("scaled_add backward", 3 * TD, 0,
          [&] { scaled_add_backward<float>(device, x, y, vector, z, dvector); });
  measure("skip_mix", 3 * TD, 0, [&] { skip_mix<float>(device, x, y, vector, gate, z); });
  measure("skip_mix backward", 5 * TD, 0,
          [&] { skip_mix_backward<float>(device, x, y, vector, gate, z, lane, dvector, dvector); });
  const LaneJoin<float> join{x, y, z, lane, vector, gate, pl, rl};
  measure("lane_join", 6 * TD, 0, [&] { lane_join<float>(device, join, yh, dyh); });
  measure("lane_join backward", 10 * TD, 0, [&] {
    lane_join_backward<float>(device, join, yh, dyh, dq, q, dvector, dvector, dpl, drl);
  });
  measure("linear D×D", 2 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear<float>(device, x, wq, y, false); });
  measure("linear D×D backward, input", 2 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear_backward_input<float>(device, x, wq, y, false); });
  measure("linear D×D backward, weight", 2 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear_backward_weight<float>(device, x, y, dwq); });
  rope_table<float>(device, cu_seqlens, c.rotary_dims(), c.rope_base, cosine, sine);
  measure("rope_gain q", 2 * TD, 0,
          [&] { rope_gain<float>(device, q, gain, cosine, sine, c.norm_eps, dq); });
  measure("rope_gain q backward", 3 * TD, 0, [&] {
    rope_gain_backward<float>(device, q, yh, gain, cosine, sine, c.norm_eps, dq, dgain);
  });
  const double attention = 2 * pairs * static_cast<double>(D);
  measure("attention_varlen", 2 * TD + 2 * TK, 2 * attention,
          [&] { attention_varlen<float>(device, q, k, v, cu_seqlens, yh, lse); });
  measure("attention_varlen backward", 3 * TD + 4 * TK, 5 * attention, [&] {
    attention_varlen_backward<float>(device, q, k, v, cu_seqlens, lse, dyh, delta, dq, dk, dv);
  });
  measure("xsa", 2 * TD + TK, 0, [&] { xsa<float>(device, yh, v, ydv); });
  measure("xsa backward", 3 * TD + 2 * TK, 0,
          [&] { xsa_backward<float>(device, yh, v, ydv, dyh, dv, delta); });
  measure("mlp_leaky_sq", 2 * TD + TF + 2 * DF, 4 * TF * static_cast<double>(D),
          [&] { mlp_leaky_sq<float>(device, x, wup, wdown, zf, y); });
  measure("mlp_leaky_sq backward", 3 * TD + TF + 4 * DF, 8 * TF * static_cast<double>(D), [&] {
    mlp_leaky_sq_backward<float>(device, y, x, zf, wup, wdown, false, z, dwup, dwdown, hf, dzf);
  });
  std::fill(weight.begin(), weight.end(), 1.0f / static_cast<float>(head_rows));
  measure("softcap_xent with gradient", 2 * n(head_rows, V), 0,
          [&] { softcap_xent<float>(device, logits, targets, c.logit_softcap, weight.data, nll); });
  // Adapters of one document that owns every row, at the record's rank.
  constexpr int64_t kRank = 96;
  const F a = take({kRank, D}), b = take({D, kRank}), da = take({kRank, D}), db = take({D, kRank});
  const std::vector<int32_t> rows{0, static_cast<int32_t>(T)};
  const auto pair_of = [&]<class U>(U* first, U* second) {
    return LowRankPairs<U>{first, second, 0, 1, {rows.data(), {2}}, kRank, D, D};
  };
  const auto pairs_of = pair_of(CF(a).data, CF(b).data);
  const double rank_flops = 4 * TD * kRank;
  measure("low_rank", 3 * TD, rank_flops, [&] { low_rank<float>(device, x, pairs_of, y); });
  measure("low_rank backward", 4 * TD, 2.5 * rank_flops,
          [&] { low_rank_backward<float>(device, y, x, pairs_of, z, pair_of(da.data, db.data)); });

  // The optimizer, on the whole model's parameters.
  const int64_t flat = flat_size(c);
  const double P = static_cast<double>(flat);
  const F w = take({flat}), g = take({flat}), m = take({flat}), v2 = take({flat});
  measure("grad_norm", P, 0, [&] { grad_norm(device, flat, g.data); });
  measure("adamw", 7 * P, 0, [&] {
    adamw(device, flat, w.data, g.data, m.data, v2.data, {.lr = 1e-9, .step = 1000});
  });
  measure("muon_momentum", 4 * P, 0,
          [&] { muon_momentum(device, flat / D, D, g.data, m.data, v2.data, 0.95, 1e-7); });
  measure("muon_apply", 3 * P, 0, [&] { muon_apply(device, flat, w.data, g.data, 0.999, 1e-9); });
  measure("ema", 3 * P, 0, [&] { ema(device, flat, m.data, w.data, 0.9965); });
  const int64_t layers = c.num_layers, small = std::min(hidden, D), large = std::max(hidden, D);
  const F matrices = take({layers, hidden, D}),
          ns = take({newton_schulz_scratch(layers, hidden, D)});
  const double cube = static_cast<double>(small) * static_cast<double>(small);
  const double step_flops = 2 * cube * static_cast<double>(2 * large + small);
  measure("newton_schulz, Wup of all layers", 2 * n(layers, hidden * D),
          5 * static_cast<double>(layers) * step_flops,
          [&] { newton_schulz(device, layers, hidden, D, matrices.data, {}, ns.data); });
  return figures;
}

}  // namespace fairway::bench
