#include "ops.h"

#include <algorithm>

#include "documents.h"
#include "fairway/base/rng.h"
#include "fairway/model/weights.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_xsa.h"
#include "fairway/ops/ema.h"
#include "fairway/ops/embedding.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_xent.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/muon.h"
#include "fairway/ops/newton_schulz.h"
#include "fairway/ops/qkv_rope.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rope_gain.h"
#include "fairway/ops/softcap_xent.h"
#include "fairway/ops/xsa.h"
#include "machine.h"
#include "timer.h"

namespace fairway::bench {

namespace {

struct Ceilings {
  double bandwidth, rate;
};
Ceilings ceilings(CpuDevice& device, const ModelConfig& c, int64_t tokens) {
  return {copy_bandwidth(device.threads()),
          onednn_rate(device.threads(), device.precision(), tokens, c.model_dim, c.mlp_dim(), false,
                      true)};
}
#if FAIRWAY_WITH_CUDA
Ceilings ceilings(CudaDevice& device, const ModelConfig&, int64_t) {
  return {copy_bandwidth(device), matmul_rate(device)};
}
#endif

// A tensor's least traffic, in bytes.
template <class U>
double bytes_of(Tensor<U> t) {
  return static_cast<double>(t.size()) * sizeof(U);
}

template <class Device, class E>
OpsFigures run(Device& device, const OpsOptions& o) {
  using A = Accum<E>;
  using F = Tensor<E>;
  using V = Tensor<A>;
  const ModelConfig& c = o.model;
  const int64_t T = o.tokens, D = c.model_dim, H = c.num_heads, K = c.num_kv_heads,
                d = c.head_dim(), kv = c.kv_dim(), hidden = c.mlp_dim(), vocab = c.vocab_size;
  const int64_t head_rows = std::min<int64_t>(T, std::is_same_v<Device, CpuDevice> ? 1024 : 8192),
                half = c.rotary_dims() / 2;
  const PackedBatch batch = random_documents(T, c.vocab_size, c.max_doc_len, 1);
  std::vector<typename Device::Buffer> memory;
  const auto ints = [&](const std::vector<int32_t>& values, int64_t count) {
    memory.push_back(device.allocate(values.size() * sizeof(int32_t)));
    device.upload(memory.back().data(), values.data(), values.size() * sizeof(int32_t));
    return Tensor<const int32_t>(reinterpret_cast<const int32_t*>(memory.back().data()), {count});
  };
  const auto tokens = ints(batch.inputs, T), targets = ints(batch.targets, head_rows),
             cu_seqlens = ints(batch.cu_seqlens, std::ssize(batch.cu_seqlens));
  const double pairs = attention_pairs(batch);

  OpsFigures figures;
  const Ceilings ceiling = ceilings(device, c, T);
  figures.bandwidth = ceiling.bandwidth;
  figures.rate = ceiling.rate;

  uint64_t stream = 0;
  const auto take_as = [&]<class U>(U, Shape shape) {
    std::vector<U> values(static_cast<size_t>(shape.size()));
    const Philox rng(3, stream++);
    for (size_t i = 0; i < values.size(); i += 4) {
      const auto words = rng.block(i);
      for (size_t j = 0; j < std::min<size_t>(4, values.size() - i); ++j)
        values[i + j] = static_cast<U>(static_cast<float>(words[j] >> 8) * 0x1p-24f - 0.5f);
    }
    memory.push_back(device.allocate(values.size() * sizeof(U)));
    device.upload(memory.back().data(), values.data(), values.size() * sizeof(U));
    return Tensor<U>(reinterpret_cast<U*>(memory.back().data()), shape);
  };
  const auto take = [&](Shape shape) { return take_as(E(0.0f), shape); };
  const auto vec = [&](Shape shape) { return take_as(A(0.0f), shape); };
  // `elements` of activations or matrices.
  const auto measure_bytes = [&](const char* name, double bytes, double flops, auto&& work) {
    const double seconds = device_seconds(device, work);
    figures.ops.push_back(
        {name, seconds, bytes, flops, std::max(bytes / figures.bandwidth, flops / figures.rate)});
  };
  const auto measure = [&](const char* name, double elements, double flops, auto&& work) {
    measure_bytes(name, sizeof(E) * elements, flops, work);
  };
  const auto n = [](int64_t a, int64_t b) { return static_cast<double>(a * b); };

  const F x = take({T, D}), y = take({T, D}), z = take({T, D}), lane = take({T, D});
  const F yh = take({T, H, d}), dyh = take({T, H, d});
  const F q = take({T, H, d}), k = take({T, K, d}), v = take({T, K, d});
  const F dq = take({T, H, d}), dk = take({T, K, d}), dv = take({T, K, d});
  const V rstd = vec({T}), lse = vec({H, T}), delta = vec({H, T}), ydv = vec({T, H}),
          rstd_q = vec({T, H}), rstd_k = vec({T, K});
  const V cosine = vec({T, half}), sine = vec({T, half}), gain = vec({H}), dgain = vec({H});
  const V mix = vec({2, D}), dmix = vec({2, D}), vector = vec({D}), dvector = vec({D}),
          gate = vec({D});
  const V pl = vec({2, 2}), rl = vec({2}), dpl = vec({2, 2}), drl = vec({2});
  const F table = take({vocab, D}), wq = take({D, D}), wk = take({kv, D}), wv = take({kv, D}),
          wup = take({hidden, D}), wdown = take({D, hidden});
  const V dtable = vec({vocab, D}), dwq = vec({D, D}), dwup = vec({hidden, D}),
          dwdown = vec({D, hidden});
  const F zf = take({T, hidden});
  const F logits = take({head_rows, vocab});
  const V nll = vec({head_rows}), weight = vec({head_rows});

  const double TD = n(T, D), TK = n(T, kv), TF = n(T, hidden), DF = n(D, hidden);
  const F yh_rows{yh.data, {T, D}}, dyh_rows{dyh.data, {T, D}}, dq_rows{dq.data, {T, D}},
      head_rows_scratch{q.data, {T, D}}, d_end{zf.data, {T, D}};
  measure("embed", 2 * TD, 0, [&] { embed<E>(device, tokens, table, c.norm_eps, rstd, x); });
  measure("embed backward", 3 * TD, 0,
          [&] { embed_backward<E>(device, tokens, table, rstd, y, dtable); });
  measure("rms_norm", 2 * TD, 0, [&] { rms_norm<E>(device, x, c.norm_eps, 1, rstd, y); });
  measure("rms_norm backward", 4 * TD, 0, [&] { rms_norm_backward<E>(device, y, x, rstd, 1, z); });
  measure("mix_norm", 4 * TD, 0,
          [&] { mix_norm<E>(device, x, lane, mix, c.norm_eps, 1, z, rstd, y); });
  const MixNormGradient<E> into{x, y, z, rstd, 1, lane, yh_rows, mix};
  measure("mix_norm backward", 8 * TD, 0,
          [&] { mix_norm_backward<E>(device, into, {}, y, dq_rows, dmix); });
  measure("skip_mix", 3 * TD, 0, [&] { skip_mix<E>(device, x, y, vector, gate, z); });
  measure("skip_mix backward", 5 * TD, 0,
          [&] { skip_mix_backward<E>(device, x, y, vector, gate, {}, z, lane, dvector, dvector); });
  const LaneJoin<E> join{x, y, z, lane, pl, rl};
  measure("lane_join", 6 * TD, 0, [&] { lane_join<E>(device, join, yh_rows, dq_rows); });
  measure("lane_join backward", 10 * TD, 0, [&] {
    lane_join_backward<E>(device, join, yh_rows, dq_rows, dyh_rows, head_rows_scratch, dpl, drl);
  });
  measure("lane_end", 5 * TD, 0, [&] { lane_end<E>(device, join, {0.5, 0.5}, yh_rows); });
  measure("lane_end backward", 9 * TD, 0, [&] {
    lane_end_backward<E>(device, join, {0.5, 0.5}, d_end, yh_rows, dq_rows, dyh_rows,
                         head_rows_scratch, dpl, drl);
  });
  measure("linear D×D", 2 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear<E>(device, x, wq, y, false); });
  measure("linear_add D×D", 3 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear_add<E>(device, x, wq, z, y); });
  measure("linear D×D backward, input", 2 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear_backward_input<E>(device, x, wq, y, false); });
  measure("linear D×D backward, weight", 2 * TD + n(D, D), 2 * TD * static_cast<double>(D),
          [&] { linear_backward_weight<E>(device, x, y, dwq); });
  rope_table<E>(device, cu_seqlens, c.rotary_dims(), c.rope_base, cosine, sine);
  measure("rope_gain q", 2 * TD, 0,
          [&] { rope_gain<E>(device, q, gain, cosine, sine, c.norm_eps, dq, rstd_q); });
  measure("rope_gain q backward", 3 * TD, 0,
          [&] { rope_gain_backward<E>(device, q, yh, rstd_q, gain, cosine, sine, dq, dgain); });
  const double attention = 2 * pairs * static_cast<double>(D);
  measure("attention_varlen", 2 * TD + 2 * TK, 2 * attention,
          [&] { attention_varlen<E>(device, q, k, v, cu_seqlens, yh, lse); });
  measure("attention_varlen backward", 3 * TD + 4 * TK, 5 * attention, [&] {
    attention_varlen_backward<E>(device, q, k, v, cu_seqlens, lse, dyh, delta, dq, dk, dv);
  });
  const AttentionSegments plan = attention_plan<E>(device, {T, H, K, d}, cu_seqlens);
  measure("attention_xsa", 2 * TD + 2 * TK, 2 * attention,
          [&] { attention_xsa<E>(device, q, k, v, plan, yh, lse, ydv); });
  measure("attention_xsa backward", 4 * TD + 4 * TK, 5 * attention, [&] {
    attention_xsa_backward<E>(device, q, k, v, plan, lse, yh, ydv, dyh, delta, dq, dk, dv);
  });
  const RopeBackward<E> rope{rstd_q, rstd_k, gain, cosine, sine, dgain};
  measure("attention_xsa backward to before QK norm", 4 * TD + 4 * TK, 5 * attention, [&] {
    attention_xsa_backward<E>(device, q, k, v, plan, lse, yh, ydv, dyh, delta, dq, dk, dv, &rope);
  });
  measure("xsa", 2 * TD + TK, 0, [&] { xsa<E>(device, yh, v, ydv); });
  measure("xsa backward", 3 * TD + 2 * TK, 0,
          [&] { xsa_backward<E>(device, yh, v, ydv, dyh, dv, delta); });
  const MlpHidden<E> kept{zf, take_as(uint32_t{}, {mlp_sign_words<E>(T, hidden)})};
  measure("mlp_leaky_sq", 3 * TD + TF + 2 * DF, 4 * TF * static_cast<double>(D),
          [&] { mlp_leaky_sq<E>(device, x, wup, wdown, z, kept, y); });
  measure("mlp_leaky_sq backward", 3 * TD + 2 * TF + 4 * DF, 8 * TF * static_cast<double>(D),
          [&] { mlp_leaky_sq_backward<E>(device, y, x, kept, wup, wdown, z, dwup, dwdown); });
  measure("linear_three backward, input", 3 * TD + 2 * n(D, D), 4 * TD * static_cast<double>(D),
          [&] {
            linear_three_backward_input<E>(device, {{dq, dk, dv}, {wq, wk, wv}}, y);
          });
  const double vocab_flops = 2 * n(head_rows, vocab) * static_cast<double>(D);
  const double head_elements = n(head_rows, vocab) + n(head_rows, D) + n(vocab, D);
  const F head_x{x.data, {head_rows, D}};
  measure("head logits", head_elements, vocab_flops,
          [&] { linear<E>(device, head_x, table, logits, false); });
  measure("head backward, input", head_elements, vocab_flops,
          [&] { linear_backward_input<E>(device, logits, table, head_x, false); });
  measure("head backward, weight", head_elements, vocab_flops,
          [&] { linear_backward_weight<E>(device, logits, head_x, dtable); });
  measure("softcap_xent with gradient", 2 * n(head_rows, vocab), 0,
          [&] { softcap_xent<E>(device, logits, targets, c.logit_softcap, weight.data, nll); });
  // All of it: logits written once and read twice.
  const LinearXent<E> head_in{head_x, table, targets, c.logit_softcap, weight.data};
  const LinearXentOut<E> head_out{nll, {dyh.data, {head_rows, D}}, vec({head_rows}), dtable};
  const double all_elements = 3 * n(head_rows, vocab) + 3 * n(head_rows, D) + 2 * n(vocab, D);
  measure("linear_xent with gradients", all_elements, 3 * vocab_flops,
          [&] { linear_xent<E>(device, head_in, logits, head_out); });
  measure("linear_xent with gradients, step by step", all_elements, 3 * vocab_flops,
          [&] { linear_xent_steps<E>(device, head_in, logits, head_out); });
  LinearXent<E> evaluation = head_in;
  evaluation.d_nll = nullptr;
  measure("linear_xent", n(head_rows, D) + n(vocab, D), vocab_flops, [&] {
    linear_xent<E>(device, evaluation, logits, {nll, {}, {}, {}});
  });
  // Adapters at the record's rank: four of one input, in documents of a window each.
  constexpr int64_t kRank = 96;
  const int64_t docs = (T + 2047) / 2048, per_doc = kRank * 5 * D;
  const V lora = vec({docs, per_doc}), dlora = vec({docs, per_doc});
  std::vector<int32_t> doc_starts;
  for (int64_t i = 0; i <= docs; ++i)
    doc_starts.push_back(static_cast<int32_t>(std::min<int64_t>(T, 2048 * i)));
  const auto doc_rows = ints(doc_starts, docs + 1);
  const auto down_of = [&]<class U>(U* base) {
    LowRankDown<U> down;
    for (int64_t i = 0; i < 4; ++i) down.a[static_cast<size_t>(i)] = base + i * kRank * D;
    down.count = 4, down.stride = per_doc, down.docs = docs, down.doc_rows = doc_rows;
    down.rank = kRank, down.in = D;
    return down;
  };
  const Tensor<const A> lora_in = lora;
  const auto down = down_of(lora_in.data);
  const LowRankUp<const A> up{lora_in.data + 4 * kRank * D, per_doc, docs, doc_rows, kRank, D};
  const F xa = take_as(E{}, {T, 4 * kRank}), dxa = take_as(E{}, {T, 4 * kRank});
  const double TR = n(T, kRank), rank_flops = 2 * TD * kRank, adapters = n(docs, kRank * D);
  measure("low_rank_down of 4", TD + 4 * TR, 4 * rank_flops,
          [&] { low_rank_down<E>(device, x, down, xa); });
  measure("low_rank_up", 2 * TD + TR, rank_flops, [&] { low_rank_up<E>(device, xa, up, y); });
  measure("low_rank_up backward", TD + 2 * TR + 2 * adapters, 2 * rank_flops,
          [&] { low_rank_up_backward<E>(device, y, xa, up, dxa, dlora.data + 4 * kRank * D); });
  measure("low_rank_down backward of 4", 3 * TD + 4 * TR + 8 * adapters, 8 * rank_flops,
          [&] { low_rank_down_backward<E>(device, dxa, x, down, z, down_of(dlora.data)); });
  measure("low_rank_down backward of 4, adapters", TD + 4 * TR + 8 * adapters, 4 * rank_flops,
          [&] { low_rank_down_backward<E>(device, dxa, x, down, {}, down_of(dlora.data)); });
  // The same adapters beside the maps that they belong to.
  const QkvMaps<E> maps{wq, wk, wv, gain, cosine, sine, c.norm_eps};
  const QkvRotated<E> qkv{dq, dk, dv, rstd_q, rstd_k};
  const auto up_of = [&](int64_t out, int place) {
    return LowRankUp<const A>{
        lora_in.data + place * kRank * D, per_doc, docs, doc_rows, kRank, out, place};
  };
  const std::array<LowRankUpBackward<E>, 4> ups{{{up_of(D, 0), dq, dlora.data},
                                                 {up_of(kv, 1), dk, dlora.data + kRank * D},
                                                 {up_of(kv, 2), dv, dlora.data + 2 * kRank * D},
                                                 {up_of(D, 3), y, dlora.data + 3 * kRank * D}}};
  const double widths = static_cast<double>(2 * D + 2 * kv) / static_cast<double>(D);
  measure("low_rank_up backward of q, k, v, o", widths * (TD + 2 * adapters) + 8 * TR,
          2 * widths * rank_flops, [&] { low_rank_ups_backward<E>(device, ups, xa, dxa); });
  const double qkv_flops = 2 * TD * static_cast<double>(D + 2 * kv),
               qkv_rank = rank_flops * static_cast<double>(D + 2 * kv) / static_cast<double>(D),
               qkv_elements = 2 * TD + 2 * TK + n(D, D + 2 * kv);
  measure("qkv_rope", qkv_elements, qkv_flops, [&] { qkv_rope<E>(device, x, maps, qkv); });
  measure("qkv_rope, adapted", qkv_elements + 3 * TR + 4 * adapters, qkv_flops + qkv_rank, [&] {
    qkv_rope_adapted<E>(device, x, maps, {up_of(D, 0), up_of(kv, 1), up_of(kv, 2), xa}, qkv);
  });
  const LowRankAdded<E> added{up, xa};
  const LowRankAddedBack<E> back{down, dxa};
  LowRankDown<const A> first = down;
  first.count = 1;
  const LowRankAddedBack<E> back_of_one{first, {dxa.data, {T, kRank}}};
  const double DD = n(D, D), square_flops = 2 * TD * static_cast<double>(D),
               wide_flops = 2 * TF * static_cast<double>(D);
  measure("linear_add D×D, adapted", 3 * TD + DD + TR + 2 * adapters, square_flops + rank_flops,
          [&] { linear_adapted<E>(device, x, wq, z, added, y); });
  measure("linear_add F×D", 2 * TD + TF + DF, wide_flops,
          [&] { linear_add<E>(device, zf, wdown, z, y); });
  measure("linear_add F×D, adapted", 2 * TD + TF + DF + TR + 2 * adapters, wide_flops + rank_flops,
          [&] { linear_adapted<E>(device, zf, wdown, z, added, y); });
  measure("linear D×F backward, input", TD + TF + DF, wide_flops,
          [&] { linear_backward_input<E>(device, zf, wup, y, false); });
  measure("linear D×F backward, input, adapted", TD + TF + DF + TR + 2 * adapters,
          wide_flops + rank_flops,
          [&] { linear_adapted_backward_input<E>(device, zf, wup, back_of_one, y); });
  measure("linear_three backward, input, adapted", 3 * TD + 2 * DD + 4 * TR + 8 * adapters,
          2 * square_flops + 4 * rank_flops, [&] {
            linear_three_adapted_backward_input<E>(device, {{dq, dk, dv}, {wq, wk, wv}}, back, y);
          });

  // The optimizer, on the whole model's parameters.
  const int64_t flat = flat_size(c);
  const double P = static_cast<double>(flat);
  const auto floats = [&](Shape shape) { return take_as(0.0f, shape); };
  const auto w = floats({flat}), g = floats({flat}), m = floats({flat}), v2 = floats({flat});
  double* const total = take_as(0.0, {1}).data;
  measure_bytes("grad_norm", 4 * (P), 0, [&] { add_squares(device, flat, g.data, total); });
  measure_bytes("adamw", 4 * (7 * P), 0, [&] {
    adamw(device, flat, w.data, g.data, m.data, v2.data, {.lr = 1e-9, .step = 1000});
  });
  measure_bytes("muon_momentum", 4 * (4 * P), 0,
                [&] { muon_momentum(device, flat / D, D, g.data, m.data, v2.data, 0.95, 1e-7); });
  measure_bytes("muon_apply", 4 * (3 * P), 0,
                [&] { muon_apply(device, flat, w.data, g.data, 0.999, 1e-9); });
  measure_bytes("ema", 4 * (3 * P), 0, [&] { ema(device, flat, m.data, w.data, 0.9965); });
  const int64_t layers = c.num_layers, small = std::min(hidden, D), large = std::max(hidden, D);
  const auto matrices = floats({layers, hidden, D}),
             ns = floats({newton_schulz_scratch(layers, hidden, D)});
  const double cube = static_cast<double>(small) * static_cast<double>(small);
  const double step_flops = 2 * cube * static_cast<double>(2 * large + small);
  measure_bytes("newton_schulz, Wup of all layers", 8 * n(layers, hidden * D),
                5 * static_cast<double>(layers) * step_flops,
                [&] { newton_schulz(device, layers, hidden, D, matrices.data, {}, ns.data); });
  return figures;
}

}  // namespace

OpsFigures bench_ops(const OpsOptions& o) {
  return with_device(o.device, [&]<class Device, class E>(Device& device, std::type_identity<E>) {
    return run<Device, E>(device, o);
  });
}

}  // namespace fairway::bench
