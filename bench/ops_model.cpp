// Ops of the model's layers, its embedding and its head.
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_xsa.h"
#include "fairway/ops/embedding.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_xent.h"
#include "fairway/ops/linear_xsa.h"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rope_gain.h"
#include "fairway/ops/softcap_xent.h"
#include "fairway/ops/xsa.h"
#include "ops_bench.h"

namespace fairway::bench {

template <class Device, class E>
void OpsBench<Device, E>::model() {
  const F yh_rows{yh.data, {T, D}}, dyh_rows{dyh.data, {T, D}}, dq_rows{dq.data, {T, D}},
      head_rows_scratch{q.data, {T, D}}, d_end{zf.data, {T, D}};
  measure("embed", 2 * TD, 0, [&] { embed<E>(device, tokens, table, c.norm_eps, rstd, x); });
  measure("embed backward", 3 * TD, 0,
          [&] { embed_backward<E>(device, tokens, table, rstd, y, dtable); });
  measure("rms_norm", 2 * TD, 0, [&] { rms_norm<E>(device, x, c.norm_eps, 1, rstd, y); });
  measure("rms_norm backward", 4 * TD, 0, [&] { rms_norm_backward<E>(device, y, x, rstd, 1, z); });
  const auto mix_norm_of = [&](const BlockInput<E>& block) {
    mix_norm<E>(device, block, lane, mix, c.norm_eps, 1, {}, z, rstd, y);
  };
  const BlockInput<E> plain{x, {}, {}}, skipping{x, dq_rows, skip};
  measure("mix_norm", 4 * TD, 0, [&] { mix_norm_of(plain); });
  measure("mix_norm after a skip", 5 * TD, 0, [&] { mix_norm_of(skipping); });
  const auto mix_norm_back_to = [&](const BlockInput<E>& block, F to_k, V to_skip) {
    const MixNormBackward<E> from{z, z, rstd, 1, block, lane, mix, y, {}, {}};
    mix_norm_backward<E>(device, from, {y, to_k, yh_rows, dmix, to_skip});
  };
  measure("mix_norm backward", 7 * TD, 0, [&] { mix_norm_back_to(plain, {}, {}); });
  measure("mix_norm backward, after a skip", 9 * TD, 0,
          [&] { mix_norm_back_to(skipping, dyh_rows, dskip); });
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
  measure("rope_gain q", 2 * TD, 0,
          [&] { rope_gain<E>(device, q, gain, cosine, sine, c.norm_eps, dq, rstd_q); });
  measure("rope_gain q backward", 3 * TD, 0,
          [&] { rope_gain_backward<E>(device, q, yh, rstd_q, gain, cosine, sine, dq, dgain); });
  const double pairs = attention_pairs(batch);
  const double attention = 2 * pairs * static_cast<double>(D);
  measure("attention_varlen", 2 * TD + 2 * TK, 2 * attention,
          [&] { attention_varlen<E>(device, q, k, v, cu_seqlens, yh, lse, gain); });
  measure("attention_varlen backward", 3 * TD + 4 * TK, 5 * attention, [&] {
    attention_varlen_backward<E>(device, q, k, v, cu_seqlens, lse, dyh, delta, dq, dk, dv);
  });
  const AttentionSegments plan = attention_plan<E>(device, {T, H, K, d}, cu_seqlens);
  measure("attention_xsa", 2 * TD + 2 * TK, 2 * attention,
          [&] { attention_xsa<E>(device, q, k, v, plan, yh, lse, ydv, gain); });
  const RopeBackward<E> rope{rstd_q, rstd_k, gain, cosine, sine, dgain};
  measure("attention_varlen backward to before QK norm", 3 * TD + 4 * TK, 5 * attention, [&] {
    attention_varlen_backward<E>(device, q, k, v, plan, lse, dyh, delta, dq, dk, dv, &rope);
  });
  measure("xsa", 2 * TD + TK, 0, [&] { xsa<E>(device, yh, v, ydv); });
  measure("xsa backward", 3 * TD + 2 * TK, 0,
          [&] { xsa_backward<E>(device, yh, v, ydv, dyh, dv, delta); });
  const double back_elements = 3 * TD + 2 * TK + n(D, D),
               back_flops = 2 * TD * static_cast<double>(D);
  measure("linear_xsa backward", back_elements, back_flops,
          [&] { linear_xsa_backward<E>(device, x, wq, yh, v, ydv, dyh, dv, delta); });
  measure("linear_xsa backward, step by step", back_elements, back_flops,
          [&] { linear_xsa_backward_steps<E>(device, x, wq, yh, v, ydv, dyh, dv, delta); });
  const MlpHidden<E> kept{zf, take_as(uint32_t{}, {mlp_sign_words<E>(T, hidden)})};
  measure("mlp_leaky_sq", 3 * TD + TF + 2 * DF, 4 * TF * static_cast<double>(D),
          [&] { mlp_leaky_sq<E>(device, x, wup, wdown, z, kept, y); });
  // The backward pass consumes what the forward pass kept, so it runs behind one each time.
  const auto forward = [&] { mlp_leaky_sq<E>(device, x, wup, wdown, z, kept, y); };
  const double both_bytes = 6 * TD + 3 * TF + 6 * DF, both_flops = 12 * TF * static_cast<double>(D);
  measure("mlp_leaky_sq, forward and backward", both_bytes, both_flops, [&] {
    forward();
    mlp_leaky_sq_backward<E>(device, y, x, kept, wup, wdown, z, dwup, dwdown);
  });
  measure("mlp_leaky_sq, forward and backward into its norm", both_bytes + TD, both_flops, [&] {
    forward();
    mlp_leaky_sq_backward<E>(device, y, x, kept, wup, wdown, z, dwup, dwdown, {},
                             {rstd, 1, lane, {}});
  });
  measure("linear_three backward, input", 3 * TD + 2 * n(D, D), 4 * TD * static_cast<double>(D),
          [&] {
            linear_three_backward_input<E>(device, {{dq, dk, dv}, {wq, wk, wv}}, y);
          });
  measure("linear_three backward, weights", 3 * TD + 4 * n(D, D), 4 * TD * static_cast<double>(D),
          [&] {
            linear_three_backward_weight<E>(device, {dq, dk, dv}, x, {dwq, dwk, dwv});
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
}

#define FAIRWAY_INSTANTIATE(Device, E) template void OpsBench<Device, E>::model();
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::bench
