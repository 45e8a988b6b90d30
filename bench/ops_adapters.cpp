// Low-rank adapters, alone and beside the maps that they belong to.
#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "fairway/ops/adapter_copies.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/qkv_rope.h"
#include "ops_bench.h"

namespace fairway::bench {

template <class Device, class E>
void OpsBench<Device, E>::adapters() {
  // Adapters at the record's rank: four of one input, in documents of a window each.
  constexpr int64_t kRank = 96;
  const int64_t docs = (T + 2047) / 2048, per_doc = kRank * 5 * D;
  const V lora = vec({docs, per_doc});
  const auto dlora = take_as(E{}, {docs, per_doc});
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
  measure("low_rank_down backward of 4, adapters", TD + 4 * TR + 4 * adapters, 4 * rank_flops,
          [&] { low_rank_down_backward<E>(device, dxa, x, down, {}, down_of(dlora.data)); });
  LowRankDown<const A> first = down;
  LowRankDown<E> first_gradient = down_of(dlora.data);
  first.count = first_gradient.count = 1;
  const Tensor<const E> first_dxa{dxa.data, {T, kRank}};
  measure("low_rank_down backward of 1, adapters", TD + TR + adapters, rank_flops,
          [&] { low_rank_down_backward<E>(device, first_dxa, x, first, {}, first_gradient); });
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
  if (reads_adapter_copies<E>(device)) {
    const auto copies = take_as(bf16{}, {docs, per_doc});
    auto copied_ups = ups;
    for (auto& one : copied_ups) {
      one.up.copies.matrix = copies.data + one.up.place * kRank * D;
      one.up.copies.stride = per_doc;
    }
    // dB, and a copy of B in bf16.
    measure("low_rank_up backward of q, k, v, o, with copies",
            widths * (TD + 2 * adapters) + 8 * TR, 2 * widths * rank_flops,
            [&] { low_rank_ups_backward<E>(device, copied_ups, xa, dxa); });
    const std::span one(copied_ups.data(), 1);
    measure("low_rank_up backward of one, with copies", TD + 2 * adapters + 2 * TR, 2 * rank_flops,
            [&] { low_rank_ups_backward<E>(device, one, xa, dxa); });
  }
  const double qkv_flops = 2 * TD * static_cast<double>(D + 2 * kv),
               qkv_rank = rank_flops * static_cast<double>(D + 2 * kv) / static_cast<double>(D),
               qkv_elements = 2 * TD + 2 * TK + n(D, D + 2 * kv);
  measure("qkv_rope", qkv_elements, qkv_flops, [&] { qkv_rope<E>(device, x, maps, qkv); });
  measure("qkv_rope, adapted", qkv_elements + 3 * TR + 4 * adapters, qkv_flops + qkv_rank, [&] {
    qkv_rope_adapted<E>(device, x, maps, {up_of(D, 0), up_of(kv, 1), up_of(kv, 2), xa}, qkv);
  });
  const LowRankAdded<E> added{up, xa};
  const LowRankAddedBack<E> back{down, dxa};
  const LowRankAddedBack<E> back_of_one{first, first_dxa};
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
  const MlpHidden<E> kept{zf, take_as(uint32_t{}, {mlp_sign_words<E>(T, hidden)})};
  // The backward pass consumes what the forward pass kept, so it runs behind one each time.
  const auto forward = [&] { mlp_leaky_sq<E>(device, x, wup, wdown, z, kept, y); };
  const double mlp_elements = 6 * TD + 3 * TF + 4 * DF + TR + 2 * adapters,
               mlp_flops = 4 * wide_flops + rank_flops;
  measure("mlp_leaky_sq forward and backward, input, adapted", mlp_elements, mlp_flops, [&] {
    forward();
    mlp_leaky_sq_backward<E>(device, y, x, kept, wup, wdown, z, {}, {}, back_of_one);
  });
  measure("mlp_leaky_sq forward and backward, input, adapted, into its norm",
          mlp_elements + TD + TR, mlp_flops, [&] {
            forward();
            mlp_leaky_sq_backward<E>(device, y, x, kept, wup, wdown, z, {}, {}, back_of_one,
                                     {rstd, 1, lane, {xa.data, {T, kRank}}});
          });
  const MlpE4m3<E> w_e4m3 = take_mlp_e4m3();
  const MlpHidden<E> kept_e4m3 = take_e4m3_hidden();
  const F first_xa{xa.data, {T, kRank}};
  const LowRankAdded<E> added_by_one{up_of(D, 0), first_xa};
  measure("mlp_leaky_sq_e4m3 forward and backward, input, adapted, into its norm",
          mlp_elements + TD + TR, mlp_flops, [&] {
            mlp_leaky_sq_e4m3<E>(device, x, w_e4m3, z, kept_e4m3, y, added_by_one);
            mlp_leaky_sq_e4m3_backward<E>(device, y, x, kept_e4m3, w_e4m3, z, {}, {}, back_of_one,
                                          {rstd, 1, lane, first_xa});
          });
  measure("linear_three backward, input, adapted", 3 * TD + 2 * DD + 4 * TR + 8 * adapters,
          2 * square_flops + 4 * rank_flops, [&] {
            linear_three_adapted_backward_input<E>(device, {{dq, dk, dv}, {wq, wk, wv}}, back, y);
          });
  // The head's, as test-time training has them: few rows of many documents.
  constexpr int64_t kHeadRows = 32;
  const int64_t head_docs = std::min<int64_t>(48, head_rows / kHeadRows);
  if (head_docs > 0) {
    const int64_t rows = head_docs * kHeadRows, size = kRank * vocab;
    const V b = vec({head_docs, size});
    const auto db = take_as(E{}, {head_docs, size});
    std::vector<int32_t> starts;
    for (int64_t i = 0; i <= head_docs; ++i) starts.push_back(static_cast<int32_t>(kHeadRows * i));
    const LowRankUp<const A> head{b.data, size,  head_docs, ints(starts, head_docs + 1),
                                  kRank,  vocab, 0};
    const F l{logits.data, {rows, vocab}}, l_xa{xa.data, {rows, kRank}},
        l_dxa{dxa.data, {rows, kRank}};
    const double all = n(rows, vocab), sizes = n(head_docs, size);
    measure("low_rank_up of a head", 2 * all + n(rows, kRank) + 2 * sizes, 2 * all * kRank,
            [&] { low_rank_up<E>(device, l_xa, head, l); });
    measure("low_rank_up backward of a head", all + 2 * n(rows, kRank) + 3 * sizes, 4 * all * kRank,
            [&] { low_rank_up_backward<E>(device, l, l_xa, head, l_dxa, db.data); });
  }
  // A step of two visits' adapters, A copied below each other and transposed, and B.
  if (reads_adapter_copies<E>(device)) {
    constexpr int64_t kVisits = 2, kMatrices = 5 * kVisits;
    const int64_t size = kRank * D, stride = kMatrices * size, copied = 2 * stride;
    std::vector<AdapterMatrix> matrices;
    for (int64_t i = 0; i < kMatrices; ++i) {
      AdapterMatrix m{.from = i * size, .rows = kRank, .columns = D, .to = 2 * i * size};
      if (i % 5 < 4)
        m.transposed = m.to + size, m.pitch = kRank;
      else
        std::swap(m.rows, m.columns);
      matrices.push_back(m);
    }
    const V w = vec({docs, stride}), second = vec({docs, stride});
    const auto g = take_as(bf16{}, {docs, stride});
    const auto copies = take_as(bf16{}, {docs, copied});
    measure_bytes("adamw of adapters, with copies", n(docs, stride) * (18 + 2 * 9.0 / 5), 0, [&] {
      adamw_with_copies(device, matrices,
                        {docs, w.data, stride, copies.data, copied, g.data, second.data},
                        {.lr = 1e-9, .beta1 = 0, .step = 1000});
    });
  }
}

#define FAIRWAY_INSTANTIATE(Device, E) template void OpsBench<Device, E>::adapters();
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::bench
