// Every op of the model once or more, as cases that run on any device and element type. Legend as
// in the ops: T rows, D model width, F hidden width, H/K heads of width d, V vocabulary.
#pragma once

#include <array>
#include <cmath>
#include <ostream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "fairway/base/rng.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_xsa.h"
#include "fairway/ops/embedding.h"
#include "fairway/ops/fold_scale.h"
#include "fairway/ops/fold_skips.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_xent.h"
#include "fairway/ops/linear_xsa.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/mix_norm.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/qkv_rope.h"
#include "fairway/ops/residual.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/rope_gain.h"
#include "fairway/ops/softcap_xent.h"
#include "fairway/ops/transposed_weights.h"
#include "fairway/ops/xsa.h"

namespace fairway::testing {

inline constexpr double kEps = 0x1p-23;

// Who runs a case. On the CPU an op's way depends on few sizes: more rows than a block or tile (64,
// 128), more than a weight's gradient sums at once (2,048; 512 of one document), more columns of it
// than a tile has (512), each of which has a case. The GPU's kernels have ways of their own for
// widths that they were written for, and for more tiles than run at once. Such cases would take a
// CPU minutes under sanitizers, to do what a smaller one does: they are the GPU's alone, and the
// CPU computes in double what they should give.
enum class RunsOn { all, gpu };

struct OpCase {
  std::string name;
  RunsOn on;
  OpCase(std::string case_name, RunsOn runs_on = RunsOn::all)
      : name(std::move(case_name)), on(runs_on) {}
};

// A batch of documents' adapters, G of one input and the second halves of those, as an op case
// makes them up: document b owns rows [starts[b], starts[b + 1]), counted from starts[0].
template <class Harness>
class AdapterInputs {
 public:
  using U = typename Harness::T;
  using A = Accum<U>;

  AdapterInputs(Harness& h, const std::vector<int32_t>& starts, int64_t rank, int G)
      : h_(h), docs_(std::ssize(starts) - 1), rank_(rank), G_(G), doc_rows_(h.ints(starts)) {}

  int64_t width() const { return G_ * rank_; }

  LowRankUp<const A> up(int64_t out, int place, const A* out_scale) {
    const int64_t stride = (out * rank_ + 3) / 4 * 4;
    return {values(stride), stride, docs_, doc_rows_, rank_, out, place, out_scale};
  }
  LowRankDown<const A> down(int64_t in) {
    LowRankDown<const A> d;
    d.stride = (width() * in + 3) / 4 * 4;
    const A* const base = values(d.stride);
    for (int i = 0; i < G_; ++i) d.a[static_cast<size_t>(i)] = base + i * rank_ * in;
    d.count = G_, d.docs = docs_, d.doc_rows = doc_rows_, d.rank = rank_, d.in = in;
    return d;
  }

 private:
  const A* values(int64_t stride) {
    return h_.vec({docs_, stride}, 1 / std::sqrt(static_cast<double>(rank_))).data;
  }

  Harness& h_;
  int64_t docs_, rank_;
  int G_;
  Tensor<const int32_t> doc_rows_;
};

// Documents around the tiles and chunks of the kernels of adapters, and one without rows.
inline const std::vector<int32_t> kRaggedDocs{7,   8,   39,  71,   104,  231,
                                              359, 488, 488, 2535, 4583, 4583};
inline const std::vector<int32_t> kShortDocs{5, 42, 42, 305, 306};
// About as many rows as test-time training scores at a time.
inline const std::vector<int32_t> kChunkDocs{4, 5, 36, 36, 68, 101};
// One of more rows than the CPU sums at once for a document's gradient.
inline const std::vector<int32_t> kLongDoc{3, 40, 640};

// What an MLP with e4m3 operands keeps where the harness runs it.
template <class Harness, class T = typename Harness::T>
MlpHidden<T> mlp_e4m3_hidden(Harness& h, int64_t rows, int64_t D, int64_t F) {
  if (!mlp_e4m3_keeps_bytes<T>(h.device, D, F)) return {h.template scratch<T>({rows, F}), {}};
  const auto bytes = [&]() -> Tensor<e4m3> {
    return {reinterpret_cast<e4m3*>(h.template scratch<uint32_t>({rows, F / 4}).data), {rows, F}};
  };
  return {{}, {}, bytes(), bytes()};
}

// Two layers of an MLP with e4m3 operands, run as the second: its weights are `up` [2, F, D] and
// `down` [2, D, F]. `roundings` of outputs on the way, `e4m3` of f or z and, once more, of dz,
// which follows from the rounded z: see OpOutput. Gradients of weights are added to numbers of size
// `dw`.
template <class Harness, class T = typename Harness::T>
void mlp_e4m3_case(Harness& h, Tensor<const T> n, Tensor<const T> dm, Tensor<const T> up,
                   Tensor<const T> down, int roundings, int e4m3, double dw) {
  const int64_t rows = n.extent(0), F = up.extent(1), D = up.extent(2);
  const std::vector<double> ln{1, 0.5};
  const MlpE4m3<T> bank{h.template scratch<T>({2, F, D}), h.template scratch<T>({2, D, F}),
                        h.out_ints("exponents", {2, kE4m3Exponents})};
  mlp_e4m3_weights<T>(h.device, up, down, ln, bank);
  const MlpE4m3<T> w = bank.slice(1);
  const auto kept = mlp_e4m3_hidden(h, rows, D, F), kept_too = mlp_e4m3_hidden(h, rows, D, F);
  mlp_leaky_sq_e4m3<T>(h.device, n, w, h.in({rows, D}), kept,
                       h.out("y", {rows, D}, roundings, F, e4m3));
  mlp_leaky_sq_e4m3<T>(h.device, n, w, {}, kept_too, h.out("m", {rows, D}, roundings, F, e4m3));
  const auto in_place = h.inout("residual in place", {rows, D}, roundings, F, e4m3);
  mlp_leaky_sq_e4m3<T>(h.device, n, w, in_place, kept_too, in_place);
  mlp_leaky_sq_e4m3_backward<T>(h.device, dm, n, kept, w,
                                h.out("dn", {rows, D}, roundings, F, 2 * e4m3),
                                h.inout_vec("dwup", {F, D}, roundings, rows, dw, 2 * e4m3),
                                h.inout_vec("dwdown", {D, F}, roundings, rows, dw, e4m3));
}

// One layer's operands, of matrices that leave z and df about as large as n and dm.
template <class Harness, class T = typename Harness::T>
MlpE4m3<T> mlp_e4m3_operands(Harness& h, int64_t D, int64_t F) {
  const auto up = h.in({1, F, D}, 1 / std::sqrt(static_cast<double>(D))),
             down = h.in({1, D, F}, 1 / std::sqrt(static_cast<double>(F)));
  const MlpE4m3<T> bank{h.template scratch<T>({1, F, D}), h.template scratch<T>({1, D, F}),
                        h.template scratch<int32_t>({1, kE4m3Exponents})};
  mlp_e4m3_weights<T>(h.device, up, down, std::vector<double>{0.5}, bank);
  return bank.slice(0);
}

// The same into the norm before it: n and dm about 0.5 and 2^-12, weights that leave z and df about
// as large. Of what is added to dx, as large as dx at the start, half lies along n: rstd is large
// and the scale small. One more rounding than dn's: where n·dn is Σ z·dz, what dz and n lose to
// e4m3 is no part of it.
template <class Harness, class T = typename Harness::T>
void mlp_e4m3_norm_back_case(Harness& h, int64_t rows, int64_t D, int64_t F) {
  const auto n = h.in({rows, D}, 0.5), dm = h.in({rows, D}, 0x1p-12);
  const MlpE4m3<T> w = mlp_e4m3_operands(h, D, F);
  // The backward pass loses what is kept.
  const auto kept = [&] {
    const MlpHidden<T> hidden = mlp_e4m3_hidden(h, rows, D, F);
    mlp_leaky_sq_e4m3<T>(h.device, n, w, {}, hidden, h.template scratch<T>({rows, D}));
    return hidden;
  };
  MlpNormBack<T> norm{h.vec({rows}, 0x1p12, 0x1p15), 0.2, {}, {}};
  const auto dn = h.template scratch<T>({rows, D});
  norm.dx = h.inout("dx", {rows, D}, 6, D + F, 2);
  mlp_leaky_sq_e4m3_backward<T>(h.device, dm, n, kept(), w, dn,
                                h.inout_vec("dwup", {F, D}, 4, rows, 0x1p-10, 2),
                                h.inout_vec("dwdown", {D, F}, 4, rows, 0x1p-10, 1), {}, norm);
  norm.dx = h.inout("dx in dm's place", {rows, D}, 6, D + F, 2);
  mlp_leaky_sq_e4m3_backward<T>(h.device, norm.dx, n, kept(), w, dn,
                                h.inout_vec("dwup again", {F, D}, 4, rows, 1, 2),
                                h.inout_vec("dwdown again", {D, F}, 4, rows, 1, 1), {}, norm);
}

// Normal values in rows of three sizes, in turn: their operands' scales differ.
template <class Harness, class T = typename Harness::T>
Tensor<const T> rows_of_three_sizes(Harness& h, Shape shape, double size) {
  const Philox rng(31, 0);
  std::vector<double> values(static_cast<size_t>(shape.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto row = static_cast<int64_t>(i) / shape[1];
    const bf16 normal(static_cast<float>(rng.normal(i)));
    values[i] = std::ldexp(size * static_cast<float>(normal), -static_cast<int>(row % 3));
  }
  return h.given(shape, values);
}

// The same with adapters beside it, on documents, and frozen weights; what adapters add is about as
// large as what they add to. Forward, with what is kept and without: as much of y is theirs.
template <class Harness, class T = typename Harness::T>
void mlp_e4m3_adapted_case(Harness& h, const std::vector<int32_t>& starts, int64_t D, int64_t F,
                           int64_t R) {
  const int64_t rows = starts.back() - starts.front();
  const Shape shape{rows, D};
  const auto x = h.in(shape, 2), residual = h.in(shape);
  const MlpE4m3<T> w = mlp_e4m3_operands(h, D, F);
  AdapterInputs adapters(h, starts, R, 1);
  const LowRankUp<const Accum<T>> second = adapters.up(D, 0, h.vec({D}, 0.5, 1).data);
  const LowRankDown<const Accum<T>> first = adapters.down(D);
  const auto n = h.template scratch<T>(shape), xa = h.template scratch<T>({rows, R});
  // As the model does it: between the norm and the MLP, which shares an operand with it.
  const auto forward = [&](const MlpHidden<T>& hidden, Tensor<const T> beside, Tensor<T> y) {
    const auto operand = mlp_e4m3_n_rows<T>(h.device, rows, D, F);
    mlp_e4m3_norm<T>(h.device, x, kEps, 0.5, w, h.template scratch<Accum<T>>({rows}), n, operand);
    low_rank_down<T>(h.device, n, first, xa);
    mlp_leaky_sq_e4m3<T>(h.device, n, w, beside, hidden, y, {second, xa}, operand);
  };
  const auto kept = mlp_e4m3_hidden(h, rows, D, F), kept_too = mlp_e4m3_hidden(h, rows, D, F);
  // n is rounded before its operand is, and z from there on as without adapters.
  forward(kept, residual, h.out("y", shape, 8, F, 2));
  forward(kept_too, {}, h.out("m", shape, 8, F, 2));
  forward({}, residual, h.out("y, nothing kept", shape, 8, F, 2));
  const auto in_place = h.inout("residual in place", shape, 8, F, 2);
  forward({}, in_place, in_place);

  const auto dn = h.template scratch<T>(shape);
  const LowRankAddedBack<T> added{first, h.in({rows, R}, 0x1p-12)};
  mlp_leaky_sq_e4m3_backward<T>(h.device, rows_of_three_sizes(h, shape, 0x1p-12), n, kept, w,
                                h.out("dn", shape, 8, F, 3), {}, {}, added);
  MlpNormBack<T> norm{h.vec({rows}, 0x1p12, 0x1p15), 0.2, h.inout("dx", shape, 9, D + F, 3), xa};
  mlp_leaky_sq_e4m3_backward<T>(h.device, rows_of_three_sizes(h, shape, 0x1p-12), n, kept_too, w,
                                dn, {}, {}, added, norm);
}

// The ops that read transposed copies of matrices, as the second of three layers: with copies, or
// left to make their own.
template <class Harness, class T = typename Harness::T>
void transposed_weights_case(Harness& h, bool copies) {
  constexpr int64_t L = 3, D = 256, H = 4, K = 2, d = 64, Kd = K * d, F = 320, R = 8;
  const std::vector<int32_t>& starts = kShortDocs;
  const int64_t rows = starts.back() - starts.front();
  const Shape x_shape{rows, D}, q_shape{rows, H, d}, kv_shape{rows, K, d};
  const double size = 1 / std::sqrt(static_cast<double>(D));
  const BackwardWeights<T> all{h.in({L, D, D}, size),  h.in({L, Kd, D}, size),
                               h.in({L, Kd, D}, size), h.in({L, D, D}, size),
                               h.in({L, F, D}, size),  h.in({L, D, F}, size)};
  TransposedWeights<T> transposed;
  if (copies) transposed = transposed_weights<T>(h.device, all).slice(1);
  const auto wup = all.wup.slice(1), wdown = all.wdown.slice(1);

  AdapterInputs adapters(h, starts, R, 1);
  const LowRankAddedBack<T> added{adapters.down(D), h.in({rows, R})};
  const LinearThree<T> three{{h.in(x_shape), h.in({rows, Kd}), h.in({rows, Kd})},
                             {all.wq.slice(1), all.wk.slice(1), all.wv.slice(1)},
                             transposed.qkv};
  linear_three_backward_input<T>(h.device, three, h.out("dx of three", x_shape, 4, 2 * D));
  linear_three_adapted_backward_input<T>(h.device, three, added,
                                         h.out("dx of three, adapted", x_shape, 6, 2 * D + R));
  linear_adapted_backward_input<T>(h.device, h.in({rows, F}), wup, added,
                                   h.out("dx, adapted", x_shape, 6, F + R), transposed.mlp.wup);

  const auto v = h.in(kv_shape);
  const auto y = h.inout("y2", q_shape, 1, d);
  const auto y_dot_v = h.out_vec("y·v", {rows, H}, 0, d);
  xsa<T>(h.device, y, v, y_dot_v);
  linear_xsa_backward<T>(h.device, h.in(x_shape), all.wo.slice(1), y, v, y_dot_v,
                         h.out("dy", q_shape, 3, D + d), h.out("dv", kv_shape, 5, D + d),
                         h.out_vec("delta", {H, rows}, 5, D + d), {}, transposed.wo);

  const auto n = h.in(x_shape), dm = h.in(x_shape);
  // The backward pass loses what is kept.
  const auto kept = [&] {
    const MlpHidden<T> hidden{h.template scratch<T>({rows, F}),
                              h.template scratch<uint32_t>({mlp_sign_words<T>(rows, F)})};
    mlp_leaky_sq<T>(h.device, n, wup, wdown, {}, hidden, h.template scratch<T>(x_shape));
    return hidden;
  };
  mlp_leaky_sq_backward<T>(h.device, dm, n, kept(), wup, wdown, h.out("dn", x_shape, 4, F),
                           h.inout_vec("dwup", {F, D}, 4, rows),
                           h.inout_vec("dwdown", {D, F}, 4, rows), {}, {}, transposed.mlp);
  const MlpNormBack<T> norm{h.vec({rows}, 1, 8), 0.5, h.inout("dx", x_shape, 6, D + F), {}};
  mlp_leaky_sq_backward<T>(h.device, dm, n, kept(), wup, wdown, h.template scratch<T>(x_shape), {},
                           {}, {}, norm, transposed.mlp);
}

// Heads on packed buffers.
struct HeadsCase {
  const char* name;
  int64_t H, K, d;
  int rope_dims;
  std::vector<int32_t> cu_seqlens;
  RunsOn on = RunsOn::all;
};
inline void PrintTo(const HeadsCase& c, std::ostream* out) {
  *out << c.name;
}
inline const std::vector<HeadsCase> kHeadsCases{
    {"one_token", 2, 1, 8, 8, {0, 1}},
    {"empty_segments", 2, 2, 8, 4, {0, 0, 3, 3, 3}},
    {"around_a_tile", 2, 1, 16, 16, {0, 63, 127, 192, 257}},
    {"grouped", 8, 2, 32, 16, {0, 33, 300}},
    {"record_heads", 8, 4, 64, 16, {0, 5, 140, 141, 500, 500, 1300}, RunsOn::gpu},
    {"lone_heads", 3, 3, 64, 64, {0, 1, 65, 193, 300}},
    {"rotary_48", 4, 2, 64, 48, {0, 127}},
    {"rotary_32", 2, 1, 64, 32, {0, 70, 71}},
    {"rotary_24", 2, 2, 64, 24, {0, 77}},
    {"odd_width", 3, 1, 10, 4, {0, 90}}};

// Queries that are the last rows of each segment: many of them or few, sometimes all or none.
struct LastQueries {
  std::vector<int32_t> starts{0}, rows;
  int64_t Q() const { return std::ssize(rows); }

  LastQueries(const std::vector<int32_t>& cu_seqlens, bool few) {
    for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
      const int32_t length = cu_seqlens[s + 1] - cu_seqlens[s], third = (length + 2) / 3;
      const int32_t counts[2][6] = {{third, length, 1, 0, length, 70},
                                    {40, third, length, 3, 70, 32}};
      for (int32_t left = std::min(length, counts[few][s % 6]); left > 0; --left)
        rows.push_back(cu_seqlens[s + 1] - left);
      starts.push_back(static_cast<int32_t>(rows.size()));
    }
  }
};

// visit(OpCase, run) for each; run(harness) runs the op and registers its outputs.
template <class Visitor>
void for_each_op_case(Visitor&& visit) {
  // Rows and widths: one row, widths that vectors do not divide, the record's width, a wide one.
  struct RowsCase {
    int64_t T, D;
    RunsOn on = RunsOn::all;
  };
  for (const auto& [T, D, on] :
       {RowsCase{1, 8}, {37, 50}, {300, 64}, {700, 512, RunsOn::gpu}, {70, 1544}}) {
    const auto named = [&, T = T, D = D, on = on](const char* op) {
      return OpCase(std::string(op) + "_" + std::to_string(T) + "x" + std::to_string(D), on);
    };
    const Shape rows{T, D};
    visit(named("rms_norm"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto x = h.in(rows);
      const auto rstd = h.out_vec("rstd", {T}, 0, D);
      rms_norm<U>(h.device, x, kEps, 0.5, rstd, h.out("n", rows, 1, D));
      rms_norm_backward<U>(h.device, h.in(rows), h.in(rows), rstd, 0.5, h.inout("dx", rows, 1, D));
    });
    visit(named("head_rows"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      std::vector<int32_t> ids;
      for (int64_t i = 0; i < T; i += 3) ids.push_back(static_cast<int32_t>(i));
      const int64_t N = std::ssize(ids);
      const auto list = h.ints(ids);
      const auto x = h.in(rows);
      gather_rows<U>(h.device, x, list, h.out("gathered", {N, D}));
      add_rows<U>(h.device, h.in({N, D}), list, h.inout("added to", rows));
      rms_norm_backward_write<U>(h.device, h.in({N, D}), h.in({N, D}), h.vec({N}, 0.1, 1),
                                 h.out("dx", {N, D}, 1, D));
    });
    visit(named("mix_norm"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto x = h.in(rows), x0 = h.in(rows);
      const auto mix = h.vec({2, D});
      const BlockInput<U> block{x, {}, {}};
      mix_norm<U>(h.device, block, x0, mix, kEps, 0.5, {}, h.out("u", rows),
                  h.out_vec("rstd", {T}, 0, D), h.out("n", rows, 1, D));
      mix_norm<U>(h.device, block, x0, mix, kEps, 1, {}, {}, h.out_vec("rstd again", {T}, 0, D),
                  h.out("n, u not kept", rows, 1, D));
      const auto rstd = h.vec({T}, 0.1, 1);
      const auto dmix = [&](const char* name) { return h.inout_vec(name, {2, D}, 0, T); };
      const auto dx0 = h.inout("dx0", rows, 4, D);
      const auto du = h.in(rows), dx = h.in(rows), dx_pre = h.in(rows);
      MixNormBackward<U> in{h.in(rows), h.in(rows), rstd, 0.5, block, x0, mix, du, {}, {}};
      mix_norm_backward<U>(h.device, in, {h.out("dx", rows, 1, D), {}, dx0, dmix("dmix"), {}});
      // x is x0 itself.
      auto first = in;
      first.in.x_pre = x0;
      mix_norm_backward<U>(h.device, first,
                           {{}, {}, h.inout("dx0 of x0", rows, 1, D), dmix("dmix of x0"), {}});
      first.dx_pre = dx_pre;
      mix_norm_backward<U>(h.device, first,
                           {{}, {}, h.inout("dx0 of x0 + dx_pre", rows, 1, D), {}, {}});
      // The first gradient of x0.
      for (const bool with_mix : {true, false}) {
        MixNormGradients<U> to{
            h.out("dx beside first dx0", rows, 1, D), {}, h.out("first dx0", rows, 1, D), {}, {}};
        to.first_of_x0 = true;
        if (with_mix) to.mix = dmix("dmix beside first dx0");
        mix_norm_backward<U>(h.device, in, to);
        to = {{}, {}, h.out("first dx0 of x0 + dx_pre", rows, 1, D), {}, {}};
        to.first_of_x0 = true;
        if (with_mix) to.mix = dmix("dmix of x0, first");
        mix_norm_backward<U>(h.device, first, to);
      }
      // The gradient of x_pre in the place of du, dx and dx_pre.
      const auto for_du = h.inout("in du's place", rows, 1, D);
      in.du = for_du;
      mix_norm_backward<U>(h.device, in, {for_du, {}, dx0, {}, {}});
      const auto for_dx = h.inout("in dx's place", rows, 1, D);
      in.du = du, in.dx = for_dx;
      mix_norm_backward<U>(h.device, in, {for_dx, {}, dx0, dmix("dmix beside dx"), {}});
      const auto for_dx_pre = h.inout("in dx_pre's place", rows, 1, D);
      in.dx = dx, in.dx_pre = for_dx_pre;
      mix_norm_backward<U>(h.device, in, {for_dx_pre, {}, {}, dmix("dmix beside both"), {}});
      in = {in.dn, in.n, rstd, 0.5, block, x0, mix, {}, {}, dx_pre};
      mix_norm_backward<U>(
          h.device, in,
          {h.out("dx of n alone + dx_pre", rows, 1, D), {}, dx0, dmix("dmix of n alone"), {}});
      mix_norm_backward<U>(h.device, in,
                           {h.out("dx + dx_pre, without dx0", rows, 1, D), {}, {}, {}, {}});
    });
    visit(named("mix_norm_skip"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto x0 = h.in(rows);
      const auto mix = h.vec({2, D});
      const BlockInput<U> block{h.in(rows), h.in(rows), h.vec({2, D})};
      mix_norm<U>(h.device, block, x0, mix, kEps, 0.5, h.out("x", rows), h.out("u", rows),
                  h.out_vec("rstd", {T}, 0, D), h.out("n", rows, 1, D));
      mix_norm<U>(h.device, block, x0, mix, kEps, 0.5, {}, h.out("u, x not kept", rows),
                  h.out_vec("rstd again", {T}, 0, D), h.out("n, x not kept", rows, 1, D));
      const auto rstd = h.vec({T}, 0.1, 1);
      const auto sums = [&](const char* name) { return h.inout_vec(name, {2, D}, 0, T); };
      const auto out = [&](const char* name) { return h.out(name, rows, 1, D); };
      const auto du = h.in(rows), dx = h.in(rows), dx_pre = h.in(rows);
      const auto dx0 = h.inout("dx0", rows, 4, D);
      MixNormBackward<U> in{h.in(rows), h.in(rows), rstd, 0.5, block, x0, mix, du, {}, {}};
      // A serial visit, and one with another gradient of its input.
      mix_norm_backward<U>(h.device, in,
                           {out("dx_pre"), out("dk"), dx0, sums("dmix"), sums("dskip")});
      // The same where it is the first gradient of x0.
      for (const bool with_sums : {true, false}) {
        MixNormGradients<U> to{
            out("dx_pre beside first dx0"), out("dk beside first dx0"), out("first dx0"), {}, {}};
        to.first_of_x0 = true;
        if (with_sums)
          to.mix = sums("dmix beside first dx0"), to.skip = sums("dskip beside first dx0");
        mix_norm_backward<U>(h.device, in, to);
      }
      in.dx_pre = dx_pre;
      const auto in_place = h.inout("dx_pre in du's place", rows, 1, D);
      in.du = in_place;
      mix_norm_backward<U>(h.device, in,
                           {in_place, out("dk beside dx_pre"), dx0, sums("dmix beside dx_pre"),
                            sums("dskip beside dx_pre")});
      // In lanes.
      in.du = {};
      in.dx = dx;
      mix_norm_backward<U>(h.device, in,
                           {out("dx_pre in lanes"), out("dk in lanes"), dx0, sums("dmix in lanes"),
                            sums("dskip in lanes")});
      // Adapters alone need no gradient of mix and skip.
      mix_norm_backward<U>(h.device, in, {out("dx_pre alone"), out("dk alone"), {}, {}, {}});
      // k is x_pre itself.
      in.in.k = block.x_pre;
      in.dx = {};
      in.du = du;
      mix_norm_backward<U>(
          h.device, in,
          {out("dx_pre of both"), {}, dx0, sums("dmix of both"), sums("dskip of both")});
      mix_norm_backward<U>(h.device, in, {out("dx_pre of both alone"), {}, {}, {}, {}});
    });
    for (const bool gated : {true, false})
      visit(named(gated ? "fold_skips_gated" : "fold_skips"), [=](auto& h) {
        using U = typename std::remove_reference_t<decltype(h)>::T;
        using A = Accum<U>;
        const Shape vectors{3, D};
        const auto w = h.vec(vectors), gate = gated ? h.vec(vectors) : Tensor<const A>{};
        fold_skips<U>(h.device, w, gate, h.out_vec("skip", {3, 2, D}, 0, 1));
        fold_skips_backward<U>(h.device, h.vec({3, 2, D}), w, gate,
                               h.inout_vec("dw", vectors, 0, 1),
                               gated ? h.inout_vec("dgate", vectors, 0, 1) : Tensor<A>{});
      });
    visit(named("fold_scale"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto w = h.in(rows);
      const auto scale = h.vec({T});
      fold_scale<U>(h.device, w, scale, h.out("scaled", rows));
      fold_scale_backward<U>(h.device, h.vec(rows), w, scale, h.inout_vec("dw", rows),
                             h.inout_vec("dscale", {T}, 0, D));
    });
    visit(named("lane_join"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const LaneJoin<U> in{h.in(rows), h.in(rows),    h.in(rows),
                           h.in(rows), h.vec({2, 2}), h.vec({2})};
      lane_join<U>(h.device, in, h.out("out0", rows), h.out("out1", rows));
      lane_join_backward<U>(h.device, in, h.inout("d0", rows), h.inout("d1", rows),
                            h.out("da", rows), h.out("dm", rows),
                            h.inout_vec("dpl", {2, 2}, 0, T * D),
                            h.inout_vec("drl", {2}, 0, T * D));
      lane_join_backward<U>(h.device, in, h.inout("d0 alone", rows), h.inout("d1 alone", rows),
                            h.out("da alone", rows), h.out("dm alone", rows), {}, {});
      const LaneShares shares{0.5, 2};
      lane_end<U>(h.device, in, shares, h.out("end", rows));
      const auto d = h.in(rows);
      lane_end_backward<U>(h.device, in, shares, d, h.out("d0 of the end", rows, 2),
                           h.out("d1 of the end", rows, 2), h.out("da of the end", rows, 2),
                           h.out("dm of the end", rows, 2),
                           h.inout_vec("dpl of the end", {2, 2}, 0, T * D),
                           h.inout_vec("drl of the end", {2}, 0, T * D));
      lane_end_backward<U>(h.device, in, shares, d, h.out("d0 of the end alone", rows, 2),
                           h.out("d1 of the end alone", rows, 2),
                           h.out("da of the end alone", rows, 2),
                           h.out("dm of the end alone", rows, 2), {}, {});
    });
    visit(named("elementwise"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto x = h.in(rows);
      add<U>(h.device, x, h.inout("sum", rows));
      scale_to<U>(h.device, x, 0.5, h.out("scaled", rows));
    });
  }
  visit(OpCase("embedding"), [](auto& h) {
    using U = typename std::remove_reference_t<decltype(h)>::T;
    constexpr int64_t kT = 3000, kV = 61, kD = 48;
    std::vector<int32_t> tokens;  // token 7 makes up a third of them, token 60 never occurs
    for (int64_t t = 0; t < kT; ++t)
      tokens.push_back(t % 3 == 0 ? 7 : static_cast<int32_t>(t * 31 % 60));
    const auto ids = h.ints(tokens);
    const auto table = h.in({kV, kD});
    const auto rstd = h.out_vec("rstd", {kT}, 0, kD);
    embed<U>(h.device, ids, table, kEps, rstd, h.out("x0", {kT, kD}, 1, kD));
    embed_backward<U>(h.device, ids, table, rstd, h.in({kT, kD}),
                      h.inout_vec("dtable", {kV, kD}, 0, kT));
  });

  struct Product {
    int64_t rows, in, out;
    RunsOn on = RunsOn::all;
  };
  for (const Product p : {Product{1, 8, 8},
                          {17, 24, 40},
                          {300, 64, 192},
                          {130, 512, 513},
                          {2100, 32, 48},
                          {3001, 320, 64, RunsOn::gpu}})
    visit(
        {"linear_" + std::to_string(p.rows) + "x" + std::to_string(p.in) + "x" +
             std::to_string(p.out),
         p.on},
        [=](auto& h) {
          using U = typename std::remove_reference_t<decltype(h)>::T;
          const auto x = h.in({p.rows, p.in}), w = h.in({p.out, p.in}), dy = h.in({p.rows, p.out});
          linear<U>(h.device, x, w, h.out("y", {p.rows, p.out}, 1, p.in), false);
          linear<U>(h.device, x, w, h.inout("y +", {p.rows, p.out}, 1, p.in), true);
          linear_add<U>(h.device, x, w, h.in({p.rows, p.out}),
                        h.out("residual + y", {p.rows, p.out}, 1, p.in));
          const auto in_place = h.inout("residual in place", {p.rows, p.out}, 1, p.in);
          linear_add<U>(h.device, x, w, in_place, in_place);
          linear_three_backward_input<U>(
              h.device, {{dy, x, dy}, {w, h.in({p.in, p.in}), h.in({p.out, p.in})}},
              h.out("dx of three", {p.rows, p.in}, 4, 3 * p.out));
          linear_backward_input<U>(h.device, dy, w, h.out("dx", {p.rows, p.in}, 1, p.out), false);
          linear_backward_input<U>(h.device, dy, w, h.inout("dx +", {p.rows, p.in}, 1, p.out),
                                   true);
          linear_backward_weight<U>(h.device, dy, x, h.inout_vec("dw", {p.out, p.in}, 0, p.rows));
          linear_three_backward_weight<U>(
              h.device, {dy, x, h.in({p.rows, p.out})}, x,
              {h.inout_vec("dw of the first", {p.out, p.in}, 0, p.rows),
               h.inout_vec("dw of the second", {p.in, p.in}, 0, p.rows),
               h.inout_vec("dw of the third", {p.out, p.in}, 0, p.rows)});
        });
  for (const Product p : {Product{200, 32, 128}, {260, 512, 2048, RunsOn::gpu}})
    visit({"mlp_leaky_sq_" + std::to_string(p.rows), p.on}, [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const int64_t D = p.in, F = p.out;
      const auto n = h.in({p.rows, D}), dm = h.in({p.rows, D});
      const auto up = h.in({F, D}, 1 / std::sqrt(static_cast<double>(D))),
                 down = h.in({D, F}, 1 / std::sqrt(static_cast<double>(F)));
      // z (or f, which doubles z's error), and the slope are rounded on the way.
      const auto hidden = [&] {
        return MlpHidden<U>{h.template scratch<U>({p.rows, F}),
                            h.template scratch<uint32_t>({mlp_sign_words<U>(p.rows, F)})};
      };
      const auto residual = h.in({p.rows, D});
      const auto kept = hidden(), kept_too = hidden();
      mlp_leaky_sq<U>(h.device, n, up, down, residual, kept, h.out("y", {p.rows, D}, 4, F));
      mlp_leaky_sq<U>(h.device, n, up, down, {}, kept_too, h.out("m", {p.rows, D}, 4, F));
      mlp_leaky_sq<U>(h.device, n, up, down, {}, {}, h.out("m, not kept", {p.rows, D}, 4, F));
      leaky_sq<U>(h.device, kept, h.out("f", {p.rows, F}, 4, D));
      mlp_leaky_sq_backward<U>(h.device, dm, n, kept, up, down, h.out("dn", {p.rows, D}, 4, F),
                               h.inout_vec("dwup", {F, D}, 4, p.rows),
                               h.inout_vec("dwdown", {D, F}, 4, p.rows));
      mlp_leaky_sq_backward<U>(h.device, dm, n, kept_too, up, down,
                               h.out("dn, frozen", {p.rows, D}, 4, F), {}, {});
    });

  for (const Product p : {Product{70, 24, 40}, {200, 128, 256}, {260, 256, 1024, RunsOn::gpu}})
    visit({"mlp_leaky_sq_e4m3_" + std::to_string(p.rows), p.on}, [=](auto& h) {
      const int64_t D = p.in, F = p.out;
      const auto n = h.in({p.rows, D}, 0.5), dm = h.in({p.rows, D}, 0x1p-12);
      mlp_e4m3_case(h, n, dm, h.in({2, F, D}, 1 / std::sqrt(static_cast<double>(D))),
                    h.in({2, D, F}, 1 / std::sqrt(static_cast<double>(F))), 4, 1, 0x1p-10);
    });
  // Around tiles of rows and columns, and widths without a kernel.
  for (const Product p :
       {Product{131, 512, 2048, RunsOn::gpu}, {333, 256, 384}, {37, 128, 640}, {70, 24, 40}})
    visit({"mlp_e4m3_norm_back_" + std::to_string(p.in) + "x" + std::to_string(p.out), p.on},
          [=](auto& h) { mlp_e4m3_norm_back_case(h, p.rows, p.in, p.out); });
  struct AdaptedCase {
    int64_t D, F, R;
    std::vector<int32_t> starts;
    RunsOn on = RunsOn::all;
  };
  // Ranks that the kernels have tiles for and one that they have not.
  for (const AdaptedCase& c : {AdaptedCase{512, 2048, 96, {3, 40, 40, 120, 121}, RunsOn::gpu},
                               {256, 384, 16, kShortDocs},
                               {128, 256, 96, kShortDocs},
                               {128, 256, 48, kShortDocs, RunsOn::gpu},
                               {128, 256, 5, kShortDocs},
                               {128, 256, 32, kRaggedDocs, RunsOn::gpu},
                               {40, 72, 8, kShortDocs}})
    visit({"mlp_e4m3_adapted_" + std::to_string(c.D) + "x" + std::to_string(c.F) + "_rank_" +
               std::to_string(c.R),
           c.on},
          [c](auto& h) { mlp_e4m3_adapted_case(h, c.starts, c.D, c.F, c.R); });
  // Operands that Q makes small integers, eight of them in a row of n and four of dm: z, df and dz
  // are held exactly by bf16, so that every device rounds the same z and dz, many of them ties, and
  // errs where it rounds its outputs alone. So is f of |z| ≤ 16; that of 17 to 24 is held so well
  // that e4m3 rounds it as it would the exact one.
  for (const Product p : {Product{70, 24, 40}, {200, 128, 256}, {300, 256, 384}})
    visit("mlp_leaky_sq_e4m3_exact_" + std::to_string(p.rows), [=](auto& h) {
      const int64_t D = p.in, F = p.out;
      const Philox rng(23, 0);
      uint64_t draw = 0;
      const auto weights = [&](int64_t size) {
        std::vector<double> w(static_cast<size_t>(size));
        for (double& v : w) {
          const auto level = static_cast<int>(rng.below(draw++, 7)) - 3;
          v = level == 0 ? 0 : level + (level % 2 == 0 ? -1.0 : 1.0) / 32;
        }
        return w;
      };
      const auto sparse = [&](int in_row, double size, int magnitudes) {
        std::vector<double> x(static_cast<size_t>(p.rows * D));
        for (int64_t t = 0; t < p.rows; ++t)
          for (int i = 0; i < in_row; ++i) {
            const int64_t at =
                t * D + static_cast<int64_t>(rng.below(draw++, static_cast<uint64_t>(D)));
            x[static_cast<size_t>(at)] = std::ldexp(rng.below(draw++, 2) == 0 ? size : -size,
                                                    -static_cast<int>(t) % magnitudes);
          }
        return x;
      };
      const auto n = h.given({p.rows, D}, sparse(8, 33.0 / 32, 1));
      const auto dm = h.given({p.rows, D}, sparse(4, 31.0 / 32, 9));
      const auto up = h.given({2, F, D}, weights(2 * F * D));
      const auto down = h.given({2, D, F}, weights(2 * F * D));
      mlp_e4m3_case(h, n, dm, up, down, 1, 0, 1);
    });

  for (const Product p : {Product{200, 32, 40}, {300, 64, 320}})
    visit("mlp_leaky_sq_adapted_" + std::to_string(p.rows), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const int64_t D = p.in, F = p.out, R = 16;
      const Shape rows{p.rows, D};
      AdapterInputs adapters(h, {0, 150, static_cast<int32_t>(p.rows)}, R, 1);
      const auto n = h.in(rows), dm = h.in(rows), residual = h.in(rows);
      const auto up = h.in({F, D}, 1 / std::sqrt(static_cast<double>(D))),
                 down = h.in({D, F}, 1 / std::sqrt(static_cast<double>(F)));
      const MlpHidden<U> kept{h.template scratch<U>({p.rows, F}),
                              h.template scratch<uint32_t>({mlp_sign_words<U>(p.rows, F)})};
      const LowRankAdded<U> added{adapters.up(D, 0, h.vec({D}, 0.5, 1).data), h.in({p.rows, R})};
      const LowRankAddedBack<U> back{adapters.down(D), h.in({p.rows, R})};
      mlp_leaky_sq<U>(h.device, n, up, down, residual, kept, h.out("y", rows, 6, F), added);
      mlp_leaky_sq_backward<U>(h.device, dm, n, kept, up, down, h.out("dn", rows, 6, F), {}, {},
                               back);
    });

  // Into the norm before the MLP: around tiles of rows and columns, widths without a kernel, and
  // adapters on documents. With rstd this large and scale this small what is subtracted along n is
  // a good part of the result, and dx at the start a small one.
  struct NormBackCase {
    int64_t D, F, R;  // R: 0 without adapters
    std::vector<int32_t> starts;
    RunsOn on = RunsOn::all;
  };
  for (const NormBackCase& c : {NormBackCase{512, 2048, 0, {0, 131}, RunsOn::gpu},
                                {256, 512, 0, {0, 333}},
                                {128, 512, 0, {0, 37}},
                                {576, 512, 0, {0, 128}},
                                {64, 320, 0, {0, 700}},
                                {40, 72, 0, {0, 131}},
                                {512, 2048, 96, {3, 40, 40, 120, 121}, RunsOn::gpu},
                                {256, 512, 8, kShortDocs},
                                {128, 256, 32, kRaggedDocs, RunsOn::gpu},
                                {64, 320, 16, kShortDocs},
                                {64, 64, 5, kShortDocs},
                                {40, 72, 8, kShortDocs}})
    visit({"mlp_norm_back_" + std::to_string(c.D) + "x" + std::to_string(c.F) + "_rank_" +
               std::to_string(c.R),
           c.on},
          [c](auto& h) {
            using U = typename std::remove_reference_t<decltype(h)>::T;
            const auto& [D, F, R, starts, on] = c;
            const int64_t T = starts.back() - starts.front();
            const Shape rows{T, D};
            const auto n = h.in(rows), dm = h.in(rows);
            const auto up = h.in({F, D}, 1 / std::sqrt(static_cast<double>(D))),
                       down = h.in({D, F}, 1 / std::sqrt(static_cast<double>(F)));
            MlpNormBack<U> norm{h.vec({T}, 1, 8), 0.5, {}, {}};
            LowRankAddedBack<U> added;
            if (R > 0) {
              AdapterInputs adapters(h, starts, R, 1);
              added = {adapters.down(D), h.in({T, R})};
              const auto xa = h.template scratch<U>({T, R});
              low_rank_down<U>(h.device, n, added.down, xa);
              norm.xa = xa;
            }
            const int64_t words = mlp_sign_words<U>(T, F);
            const auto f = h.template scratch<U>({T, F}), z = h.template scratch<U>({T, F});
            const auto signs = h.template scratch<uint32_t>({words});
            mlp_leaky_sq<U>(h.device, n, up, down, {}, {f, signs}, h.template scratch<U>(rows));
            // The backward pass loses what is kept.
            const auto kept = [&, F = F]() -> MlpHidden<U> {
              h.device.copy(z.data, f.data, static_cast<size_t>(T * F) * sizeof(U));
              return {z, signs};
            };
            // As dn without the norm, dn itself, and the result. n·dn errs less: where it is Σ 2
            // f·df only f is rounded, and dn not at all.
            const int roundings = R > 0 ? 8 : 6;
            const auto dn = h.template scratch<U>(rows);
            norm.dx = h.inout("dx", rows, roundings, D + F);
            mlp_leaky_sq_backward<U>(h.device, dm, n, kept(), up, down, dn,
                                     h.inout_vec("dwup", {F, D}, 4, T),
                                     h.inout_vec("dwdown", {D, F}, 4, T), added, norm);
            norm.dx = h.inout("dx, frozen", rows, roundings, D + F);
            mlp_leaky_sq_backward<U>(h.device, dm, n, kept(), up, down, dn, {}, {}, added, norm);
            norm.dx = h.inout("dx in dm's place", rows, roundings, D + F);
            mlp_leaky_sq_backward<U>(h.device, norm.dx, n, kept(), up, down, dn,
                                     h.inout_vec("dwup again", {F, D}, 4, T),
                                     h.inout_vec("dwdown again", {D, F}, 4, T), added, norm);
          });

  visit(OpCase("transposed_weights"), [](auto& h) { transposed_weights_case(h, true); });

  struct QkvCase {
    int64_t T, D, H, K, d;
    int rope_dims;
    RunsOn on = RunsOn::all;
  };
  for (const QkvCase& c : {QkvCase{1300, 512, 8, 4, 64, 16, RunsOn::gpu},
                           {131, 192, 3, 1, 64, 32},
                           {70, 64, 2, 2, 64, 64},
                           {33, 40, 2, 1, 8, 8}})
    visit({"qkv_rope_" + std::to_string(c.D), c.on}, [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto [T, D, H, K, d, rope_dims, on] = c;
      const Shape table{T, rope_dims / 2}, q_shape{T, H, d}, kv_shape{T, K, d};
      const auto cosine = h.vec(table), sine = h.vec(table);
      const double scale = 1 / std::sqrt(static_cast<double>(D));
      const QkvMaps<U> maps{h.in({H * d, D}, scale),
                            h.in({K * d, D}, scale),
                            h.in({K * d, D}, scale),
                            h.vec({H}, 1, 5),
                            cosine,
                            sine,
                            kEps};
      // A product is rounded before it is normed, if it is stored in between.
      qkv_rope<U>(h.device, h.in({T, D}), maps,
                  {h.out("q_rot", q_shape, 4, D), h.out("k_rot", kv_shape, 4, D),
                   h.out("v", kv_shape, 1, D), h.out_vec("rstd_q", {T, H}, 1, D),
                   h.out_vec("rstd_k", {T, K}, 1, D)});
      QkvMaps<U> q_alone = maps, keys_alone = maps;
      q_alone.wk = q_alone.wv = {};
      keys_alone.wq = {};
      const auto n = h.in({T, D});
      qkv_rope<U>(h.device, n, q_alone,
                  {h.out("q_rot alone", q_shape, 4, D),
                   {},
                   {},
                   h.out_vec("rstd_q alone", {T, H}, 1, D),
                   {}});
      qkv_rope<U>(h.device, n, keys_alone,
                  {{},
                   h.out("k_rot alone", kv_shape, 4, D),
                   h.out("v alone", kv_shape, 1, D),
                   {},
                   h.out_vec("rstd_k alone", {T, K}, 1, D)});
    });

  struct QkvAdaptedCase {
    int64_t D, H, K, d;
    int rope_dims;
    int64_t R;
    bool k;  // has an adapter
    std::vector<int32_t> starts;
    RunsOn on = RunsOn::all;
  };
  for (const QkvAdaptedCase& c :
       {QkvAdaptedCase{512, 8, 4, 64, 16, 96, true, kShortDocs, RunsOn::gpu},
        {64, 4, 4, 64, 32, 32, true, kRaggedDocs, RunsOn::gpu},
        {128, 8, 4, 64, 16, 8, false, kRaggedDocs, RunsOn::gpu},
        {192, 3, 1, 64, 32, 96, true, kShortDocs},
        {40, 2, 1, 8, 8, 5, true, kShortDocs},
        {48, 2, 2, 8, 4, 5, false, kShortDocs}})
    visit({"qkv_rope_adapted_" + std::to_string(c.D), c.on}, [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto& [D, H, K, d, rope_dims, R, k, starts, on] = c;
      const int64_t T = starts.back() - starts.front();
      const Shape table{T, rope_dims / 2}, q_shape{T, H, d}, kv_shape{T, K, d};
      const double scale = 1 / std::sqrt(static_cast<double>(D));
      const auto cosine = h.vec(table), sine = h.vec(table);
      const QkvMaps<U> maps{h.in({H * d, D}, scale),
                            h.in({K * d, D}, scale),
                            h.in({K * d, D}, scale),
                            h.vec({H}, 1, 5),
                            cosine,
                            sine,
                            kEps};
      const int G = k ? 4 : 3;
      AdapterInputs inputs(h, starts, R, G);
      QkvAdapters<U> adapters{inputs.up(H * d, 0, nullptr), {}, {}, h.in({T, G * R})};
      if (k) adapters.k = inputs.up(K * d, 1, nullptr);
      adapters.v = inputs.up(K * d, G - 2, nullptr);
      // Step by step q, k and v are rounded once more, and so is B.
      qkv_rope_adapted<U>(h.device, h.in({T, D}), maps, adapters,
                          {h.out("q_rot", q_shape, 6, D), h.out("k_rot", kv_shape, 6, D),
                           h.out("v", kv_shape, 4, D), h.out_vec("rstd_q", {T, H}, 4, D),
                           h.out_vec("rstd_k", {T, K}, 4, D)});
      QkvMaps<U> q_alone = maps, keys_alone = maps;
      q_alone.wk = q_alone.wv = {};
      keys_alone.wq = {};
      const auto n = h.in({T, D});
      qkv_rope_adapted<U>(h.device, n, q_alone, {adapters.q, {}, {}, adapters.xa},
                          {h.out("q_rot alone", q_shape, 6, D),
                           {},
                           {},
                           h.out_vec("rstd_q alone", {T, H}, 4, D),
                           {}});
      qkv_rope_adapted<U>(h.device, n, keys_alone, {{}, adapters.k, adapters.v, adapters.xa},
                          {{},
                           h.out("k_rot alone", kv_shape, 6, D),
                           h.out("v alone", kv_shape, 4, D),
                           {},
                           h.out_vec("rstd_k alone", {T, K}, 4, D)});
    });

  // G adapters of rank R on each of some documents' rows.
  struct AdapterCase {
    int64_t in, out, R;
    int G;
    std::vector<int32_t> starts;
    RunsOn on = RunsOn::all;
  };
  for (const AdapterCase& c : {AdapterCase{512, 512, 96, 4, kShortDocs, RunsOn::gpu},
                               {128, 192, 32, 4, kRaggedDocs, RunsOn::gpu},
                               {64, 320, 8, 2, kRaggedDocs, RunsOn::gpu},
                               {256, 64, 96, 1, kRaggedDocs, RunsOn::gpu},
                               // More than half of K's last block of 64.
                               {128, 64, 48, 1, kShortDocs, RunsOn::gpu},
                               {64, 128, 112, 2, kShortDocs, RunsOn::gpu},
                               {50, 34, 5, 2, kShortDocs}})
    visit({"linear_adapted_" + std::to_string(c.in) + "x" + std::to_string(c.out), c.on},
          [=](auto& h) {
            using U = typename std::remove_reference_t<decltype(h)>::T;
            const auto& [in, out, R, G, starts, on] = c;
            const int64_t rows = starts.back() - starts.front();
            const Shape x_shape{rows, in}, y_shape{rows, out};
            AdapterInputs adapters(h, starts, R, G);
            const double size = 1 / std::sqrt(static_cast<double>(in));
            const auto x = h.in(x_shape), w = h.in({out, in}, size), dy = h.in(y_shape);
            const auto xa = h.in({rows, adapters.width()});
            const LowRankAdded<U> up{adapters.up(out, G / 2, nullptr), xa};
            const LowRankAdded<U> scaled{adapters.up(out, G - 1, h.vec({out}, 0.5, 1).data), xa};
            const LowRankAddedBack<U> back{adapters.down(in), h.in({rows, adapters.width()})};
            const int64_t terms = in + R;
            linear_adapted<U>(h.device, x, w, {}, up, h.out("y", y_shape, 4, terms));
            linear_adapted<U>(h.device, x, w, h.in(y_shape), scaled,
                              h.out("residual + y, scaled", y_shape, 4, terms));
            linear_adapted<U>(h.device, x, w, {}, {}, h.out("y, no adapter", y_shape, 1, in));
            const auto in_place = h.inout("residual in place", y_shape, 4, terms);
            linear_adapted<U>(h.device, x, w, in_place, up, in_place);
            const int64_t back_terms = 3 * out + adapters.width();
            linear_adapted_backward_input<U>(h.device, dy, w, back,
                                             h.out("dx", x_shape, 6, back_terms));
            linear_three_adapted_backward_input<U>(
                h.device, {{dy, x, dy}, {w, h.in({in, in}, size), h.in({out, in}, size)}}, back,
                h.out("dx of three", x_shape, 6, back_terms));
            linear_three_adapted_backward_input<U>(
                h.device, {{dy, x, dy}, {w, h.in({in, in}, size), h.in({out, in}, size)}}, {},
                h.out("dx of three, no adapter", x_shape, 4, back_terms));
          });

  for (const HeadsCase& c : kHeadsCases) {
    const int64_t T = c.cu_seqlens.back(), H = c.H, K = c.K, d = c.d;
    const Shape q_shape{T, H, d}, kv_shape{T, K, d};
    const auto named = [&](const char* op) { return OpCase(std::string(op) + c.name, c.on); };
    // Gains of about q's size. The op asks for no rotation: any cosines and sines will do.
    const auto rope_of = [=, half = c.rope_dims / 2](auto& h, auto dq_gain) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      return RopeBackward<U>{h.vec({T, H}, 0.1, 1), h.vec({T, K}, 0.1, 1), h.vec({H}, 0.1, 1.5),
                             h.vec({T, half}),      h.vec({T, half}),      dq_gain};
    };
    visit(named("rope_gain_"), [=, segments = c.cu_seqlens, rope_dims = c.rope_dims](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const Shape table{T, rope_dims / 2};
      // Angles up to 2048 radians: their float32 value errs by 2^-13.
      const auto cosine = h.out_vec("cos", table, 0, 2048), sine = h.out_vec("sin", table, 0, 2048);
      rope_table<U>(h.device, h.ints(segments), rope_dims, 1e4, cosine, sine);
      const auto q = h.in(q_shape), dq = h.in(q_shape), q_rot = h.in(q_shape, 5);
      const auto k_rot = h.in(kv_shape);
      const auto gain = h.vec({H}, 1, 5);
      rope_gain<U>(h.device, q, gain, cosine, sine, kEps, h.out("q_rot", q_shape, 1, 2048),
                   h.out_vec("rstd_q", {T, H}, 0, d));
      const auto k = h.inout("k_rot, in place", kv_shape, 1, 2048);
      rope_gain<U>(h.device, k, {}, cosine, sine, kEps, k, h.out_vec("rstd_k", {T, K}, 0, d));
      const auto rstd_q = h.vec({T, H}, 0.1, 1), rstd_k = h.vec({T, K}, 0.1, 1);
      rope_gain_backward<U>(h.device, dq, q_rot, rstd_q, gain, cosine, sine,
                            h.out("dq", q_shape, 1, 2048), h.inout_vec("dgain", {H}, 0, T * d));
      const auto in_place = h.inout("dk", kv_shape, 1, 2048);
      rope_gain_backward<U>(h.device, in_place, k_rot, rstd_k, {}, cosine, sine, in_place, {});
      rope_gain_backward<U>(h.device, dq, q_rot, rstd_q, h.vec({H}, 0), cosine, sine,
                            h.out("dq of no gain", q_shape), h.inout_vec("dgain of none", {H}));
    });
    visit(named("attention_"), [=, segments = c.cu_seqlens](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto q = h.in(q_shape, 1.5), k = h.in(kv_shape, 1.5), v = h.in(kv_shape),
                 dy = h.in(q_shape);
      const auto cu_seqlens = h.ints(segments);
      // Probabilities are rounded before they meet v, scores' gradients before they meet q and k.
      const auto y = h.out("y", q_shape, 4, T);
      const auto lse = h.out_vec("lse", {H, T}, 0, T);
      attention_varlen<U>(h.device, q, k, v, cu_seqlens, y, lse);
      // What a bound is said to be, small enough to be of use and not.
      for (const double bound : {30.0, 600.0})
        attention_varlen<U>(h.device, q, k, v, cu_seqlens,
                            h.out("y of bounded scores", q_shape, 4, T),
                            h.out_vec("lse of bounded scores", {H, T}, 0, T),
                            h.vec({H}, 0, bound / std::sqrt(static_cast<double>(d))));
      // Scores of 12 on average and some of 40, of which exponentials can be taken; of 90 and 300,
      // of which they cannot.
      for (const auto& [size, bound] : {std::pair{8.0, 59.0}, std::pair{60.0, 600.0}})
        attention_varlen<U>(h.device, h.in(q_shape, size), k, v, cu_seqlens,
                            h.out("y of large scores", q_shape, 4, T),
                            h.out_vec("lse of large scores", {H, T}, 0, T),
                            h.vec({H}, 0, bound / std::sqrt(static_cast<double>(d))));
      const auto delta = h.out_vec("delta", {H, T}, 6, d);
      attention_delta<U>(h.device, y, dy, delta);
      attention_varlen_backward<U>(h.device, q, k, v, cu_seqlens, lse, dy, delta,
                                   h.out("dq", q_shape, 8, T), h.out("dk", kv_shape, 8, T),
                                   h.inout("dv", kv_shape, 8, T));
      const auto rope = rope_of(h, h.inout_vec("dq_gain", {H}, 10, T * d));
      attention_varlen_backward<U>(
          h.device, q, k, v, cu_seqlens, lse, dy, delta, h.out("dq, not normed", q_shape, 10, T),
          h.out("dk, not normed", kv_shape, 10, T), h.inout("dv again", kv_shape, 8, T), &rope);
    });
    // A first token's output is its value, and y2 nothing but rounding.
    if (T > 1)
      visit(named("attention_xsa_"), [=, segments = c.cu_seqlens](auto& h) {
        using U = typename std::remove_reference_t<decltype(h)>::T;
        using A = Accum<U>;
        const auto q = h.in(q_shape, 1.5), k = h.in(kv_shape, 1.5), v = h.in(kv_shape);
        const AttentionExtents extents{T, H, K, d};
        const auto cu_seqlens = h.ints(segments);
        const auto plan = attention_plan<U>(h.device, extents, cu_seqlens);
        const auto y2 = h.out("y2", q_shape, 4, T);
        const auto lse = h.out_vec("lse", {H, T}, 0, T), y_dot_v = h.out_vec("y·v", {T, H}, 4, T);
        attention_xsa<U>(h.device, q, k, v, plan, y2, lse, y_dot_v,
                         h.vec({H}, 0, 30 / std::sqrt(static_cast<double>(d))));
        const int64_t D = H * d;
        const auto dout = h.in({T, D}), w = h.in({D, D}, 1 / std::sqrt(static_cast<double>(D)));
        // y2 and y·v̂ are used as they were rounded, and so may y2's gradient be.
        const auto back = [&](const char* dy_name, const char* dv_name, Tensor<U> dq, Tensor<U> dk,
                              const RopeBackward<U>* rope) {
          const auto dy = h.out(dy_name, q_shape, 9, D), dv = h.out(dv_name, kv_shape, 11, T + D);
          const auto delta = h.template scratch<A>({H, T});
          linear_xsa_backward<U>(h.device, dout, w, y2, v, y_dot_v, dy, dv, delta);
          attention_varlen_backward<U>(h.device, q, k, v, plan, lse, dy, delta, dq, dk, dv, rope);
        };
        back("dy", "dv", h.out("dq", q_shape, 11, T + D), h.out("dk", kv_shape, 11, T + D),
             nullptr);
        const auto rope = rope_of(h, Tensor<A>{});
        back("dy again", "dv again", h.out("dq, not normed", q_shape, 13, T + D),
             h.out("dk, not normed", kv_shape, 13, T + D), &rope);
      });
    for (const bool few : {false, true})
      visit(named(few ? "attention_few_queries_" : "attention_last_queries_"),
            [=, segments = c.cu_seqlens, half = c.rope_dims / 2](auto& h) {
              using U = typename std::remove_reference_t<decltype(h)>::T;
              using A = Accum<U>;
              const LastQueries last(segments, few);
              const int64_t Q = last.Q();
              const Shape picked{Q, H, d};
              const AttentionSegments queries(h.ints(segments), h.ints(last.starts),
                                              h.ints(last.rows));
              const auto q = h.in(picked, 1.5), k = h.in(kv_shape, 1.5), v = h.in(kv_shape),
                         dy = h.in(picked);
              // A gain's gradient is a sum of signed terms, which may come near zero: an error is
              // relative to what is there before, too.
              const RopeBackward<U> rope{
                  h.vec({Q, H}, 0.1, 1), h.vec({T, K}, 0.1, 1),
                  h.vec({H}, 0.1, 1.5),  h.vec({T, half}),
                  h.vec({T, half}),      h.inout_vec("dq_gain", {H}, 10, T * d, 20),
                  h.vec({Q, half}),      h.vec({Q, half})};
              const auto y = h.out("y", picked, 4, T);
              const auto lse = h.out_vec("lse", {H, Q}, 0, T);
              attention_varlen<U>(h.device, q, k, v, queries, y, lse);
              const auto delta = h.out_vec("delta", {H, Q}, 6, d);
              attention_delta<U>(h.device, y, dy, delta);
              attention_varlen_backward<U>(h.device, q, k, v, queries, lse, dy, delta,
                                           h.out("dq", picked, 8, T), h.out("dk", kv_shape, 8, T),
                                           h.inout("dv", kv_shape, 8, T));
              attention_varlen_backward<U>(h.device, q, k, v, queries, lse, dy, delta,
                                           h.out("dq, not normed", picked, 10, T),
                                           h.out("dk, not normed", kv_shape, 10, T),
                                           h.inout("dv again", kv_shape, 8, T), &rope);
              // See attention_xsa; and a few tokens' gradients of keys nearly cancel.
              if (T < 4) return;
              const auto y2 = h.out("y2", picked, 4, T);
              const auto lse2 = h.out_vec("lse with xsa", {H, Q}, 0, T);
              const auto y_dot_v = h.out_vec("y·v", {Q, H}, 4, T);
              attention_xsa<U>(h.device, q, k, v, queries, y2, lse2, y_dot_v,
                               h.vec({H}, 0, 30 / std::sqrt(static_cast<double>(d))));
              const auto xsa_dy = h.inout("dy", picked, 8, d);
              const auto xsa_dv = h.out("dv with xsa", kv_shape, 10, T);
              const auto xsa_delta = h.template scratch<A>({H, Q});
              // Where rows are no queries, dv begins with nothing.
              h.device.zero(xsa_dv.data, static_cast<size_t>(xsa_dv.size()) * sizeof(U));
              xsa_backward<U>(h.device, y2, v, y_dot_v, xsa_dy, xsa_dv, xsa_delta,
                              queries.query_rows);
              attention_varlen_backward<U>(h.device, q, k, v, queries, lse2, xsa_dy, xsa_delta,
                                           h.out("dq with xsa", picked, 10, T),
                                           h.out("dk with xsa", kv_shape, 10, T), xsa_dv);
            });
    visit(named("xsa_"), [=](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      const auto v = h.in(kv_shape);
      const auto y = h.inout("y2", q_shape, 1, d);
      const auto y_dot_v = h.out_vec("y·v", {T, H}, 0, d);
      xsa<U>(h.device, y, v, y_dot_v);
      // y2 is used as it was rounded.
      xsa_backward<U>(h.device, y, v, y_dot_v, h.inout("dy", q_shape, 2, d),
                      h.out("dv", kv_shape, 4, d), h.out_vec("delta", {H, T}, 4, d));
    });
  }

  // Groups of 1 to 8 query heads, in tiles of 4 that are full and that are not; the last has more
  // tiles than run at once.
  struct LinearXsaCase {
    int64_t T, D, H, K, d;
    RunsOn on = RunsOn::all;
  };
  for (const LinearXsaCase& c : {LinearXsaCase{300, 512, 8, 4, 64},
                                 {1, 64, 2, 1, 64},
                                 {131, 192, 3, 3, 64},
                                 {129, 64, 4, 1, 64},
                                 {257, 128, 10, 5, 64},
                                 {70, 64, 8, 1, 64},
                                 {90, 48, 6, 2, 64},
                                 {200, 96, 4, 2, 32},
                                 {4500, 64, 16, 8, 64, RunsOn::gpu}})
    visit({"linear_xsa_" + std::to_string(c.T) + "_of_" + std::to_string(c.H) + "_" +
               std::to_string(c.K),
           c.on},
          [c](auto& h) {
            using U = typename std::remove_reference_t<decltype(h)>::T;
            const auto& [T, D, H, K, d, on] = c;
            const Shape q_shape{T, H, d}, kv_shape{T, K, d};
            const auto dout = h.in({T, D}),
                       w = h.in({D, H * d}, 1 / std::sqrt(static_cast<double>(D)));
            const auto back = [&, T = T, D = D, H = H, d = d](Tensor<const U> v,
                                                              std::array<const char*, 5> names) {
              const auto y = h.inout(names[0], q_shape, 1, d);
              const auto y_dot_v = h.out_vec(names[1], {T, H}, 0, d);
              xsa<U>(h.device, y, v, y_dot_v);
              // y2 is used as it was rounded, and so may its gradient be.
              linear_xsa_backward<U>(
                  h.device, dout, w, y, v, y_dot_v, h.out(names[2], q_shape, 3, D + d),
                  h.out(names[3], kv_shape, 5, D + d), h.out_vec(names[4], {H, T}, 5, D + d));
            };
            // Some values are zero.
            const auto v = h.template scratch<U>(kv_shape);
            const auto row = static_cast<size_t>(K * d) * sizeof(U);
            h.device.copy(v.data, h.in(kv_shape).data, static_cast<size_t>(T) * row);
            h.device.zero(v.data + T / 3 * K * d, static_cast<size_t>(T / 2 - T / 3) * row);
            back(v, {"y2", "y·v", "dy", "dv", "delta"});
            // So short that most norms are clamped.
            back(h.in(kv_shape, 1e-13),
                 {"y2, short v", "y·v, short v", "dy, short v", "dv, short v", "delta, short v"});
          });

  // The third: more rows than blocks that run at once.
  for (const auto& [N, V] : {std::pair<int64_t, int64_t>{1, 8}, {37, 301}, {1500, 64}, {70, 8192}})
    visit("softcap_xent_" + std::to_string(V), [N = N, V = V](auto& h) {
      using U = typename std::remove_reference_t<decltype(h)>::T;
      std::vector<int32_t> ids;
      for (int64_t n = 0; n < N; ++n) ids.push_back(static_cast<int32_t>(n * 101 % V));
      const auto targets = h.ints(ids);
      const auto d_nll = h.vec({N});
      softcap_xent<U>(h.device, h.inout("dz", {N, V}, 1, V), targets, 30.0, d_nll.data,
                      h.out_vec("nll", {N}, 0, V));
      softcap_xent<U>(h.device, h.inout("l", {N, V}, 1, 4), targets, 30.0, nullptr,
                      h.out_vec("nll, evaluation", {N}, 0, V));
    });

  // Logits of standard deviation `size`: where the cap bends them, and where it hardly does.
  for (const auto& [N, D, V, cap, size] :
       {std::tuple<int64_t, int64_t, int64_t, double, double>{5, 8, 16, 3, 1},
        {37, 50, 301, 3, 1},
        {300, 64, 512, 3, 1},
        {20, 512, 2048, 3, 1},
        {9, 128, 8192, 30, 2}})
    visit("linear_xent_" + std::to_string(V) + "_cap_" + std::to_string(static_cast<int>(cap)),
          [N = N, D = D, V = V, cap = cap, size = size](auto& h) {
            using U = typename std::remove_reference_t<decltype(h)>::T;
            using A = Accum<U>;
            std::vector<int32_t> ids;
            for (int64_t n = 0; n < N; ++n) ids.push_back(static_cast<int32_t>(n * 101 % V));
            LinearXent<U> in{h.in({N, D}), h.in({V, D}, size / std::sqrt(static_cast<double>(D))),
                             h.ints(ids), cap, h.vec({N}).data};
            const auto z = h.template scratch<U>({N, V}), dx = h.template scratch<U>({N, D});
            // dx may lack its rows' factors: the norm's backward applies them.
            const auto ones = h.vec({N}, 0, 1);
            const auto factor = h.template scratch<A>({N});
            h.device.copy(factor.data, ones.data, static_cast<size_t>(N) * sizeof(A));
            // Roundings: of z, which add to l as much as it is large, or of x times its factor; of
            // dz; of dx; of the result.
            linear_xent<U>(
                h.device, in, z,
                {h.out_vec("nll", {N}, 2, V), dx, factor, h.inout_vec("dw", {V, D}, 5, N)});
            rms_norm_backward_write<U>(h.device, dx, h.in({N, D}), factor,
                                       h.out("dx, norm undone", {N, D}, 6, V));
            in.d_nll = nullptr;
            linear_xent<U>(h.device, in, z, {h.out_vec("nll, evaluation", {N}, 2, V), {}, {}, {}});
          });

  // Documents in pieces of the kernels' tiles and chunks; of G adapters, the third is applied.
  for (const AdapterCase& c : {AdapterCase{48, 40, 5, 1, kShortDocs},
                               {50, 34, 5, 4, kShortDocs},
                               {512, 256, 96, 1, kShortDocs, RunsOn::gpu},
                               {512, 1024, 96, 1, kShortDocs, RunsOn::gpu},
                               {512, 512, 96, 4, kShortDocs, RunsOn::gpu},
                               {64, 8192, 96, 1, {0, 32, 64}, RunsOn::gpu},
                               {64, 2056, 96, 1, kChunkDocs, RunsOn::gpu},
                               {72, 2576, 32, 2, kChunkDocs, RunsOn::gpu},
                               {40, 2048, 64, 4, kShortDocs, RunsOn::gpu},
                               {72, 136, 8, 4, kShortDocs},
                               {24, 40, 5, 2, kLongDoc},
                               {64, 64, 160, 2, kShortDocs},
                               {128, 64, 96, 4, kRaggedDocs, RunsOn::gpu},
                               {136, 328, 16, 4, kRaggedDocs, RunsOn::gpu},
                               {104, 136, 32, 2, kShortDocs, RunsOn::gpu},
                               {192, 256, 64, 2, kRaggedDocs, RunsOn::gpu},
                               {64, 256, 32, 4, {3, 5303, 5304, 7352, 9401}, RunsOn::gpu}})
    visit({"low_rank_" + std::to_string(c.in) + "x" + std::to_string(c.out) + "x" +
               std::to_string(c.R) + "_of_" + std::to_string(c.G),
           c.on},
          [c](auto& h) {
            using U = typename std::remove_reference_t<decltype(h)>::T;
            using A = Accum<U>;
            const auto& [in, out, R, G, starts, on] = c;
            const int64_t docs = std::ssize(starts) - 1, rows = starts.back() - starts.front();
            const int64_t longest = 5300;
            const int place = G / 2, width = static_cast<int>(G * R);
            const int64_t stride = (R * (in * G + out) + 7) / 8 * 8;
            const auto doc_rows = h.ints(starts);
            const auto pairs = h.vec({docs, stride}, 1 / std::sqrt(static_cast<double>(in)));
            const auto down = [&, in = in, R = R, G = G]<class W>(W* base) {
              LowRankDown<W> d;
              for (int i = 0; i < G; ++i) d.a[static_cast<size_t>(i)] = base + i * R * in;
              d.count = G, d.stride = stride, d.docs = docs, d.doc_rows = doc_rows;
              d.rank = R, d.in = in;
              return d;
            };
            const auto up = [&, in = in, out = out, R = R, G = G](const A* out_scale) {
              return LowRankUp<const A>{
                  pairs.data + G * R * in, stride, docs, doc_rows, R, out, place, out_scale};
            };
            const auto x = h.in({rows, in}), dy = h.in({rows, out}), xa = h.in({rows, width});
            const auto dxa = h.in({rows, width});
            const auto scale = h.vec({out}, 0.5, 1);
            low_rank_down<U>(h.device, x, down(pairs.data), h.out("xa", {rows, width}, 3, in));
            // Gradients of documents without rows are zeros; the gap behind a document stays.
            for (const A* s : {static_cast<const A*>(nullptr), scale.data}) {
              const char* const names[] = {"y", "dxa", "dxa, frozen", "dB"};
              const char* const scaled[] = {"y, scaled", "dxa, scaled", "dxa, scaled, frozen",
                                            "dB, scaled"};
              const auto& name = s ? scaled : names;
              low_rank_up<U>(h.device, xa, up(s), h.inout(name[0], {rows, out}, 4, R));
              low_rank_up_backward<U>(h.device, dy, xa, up(s),
                                      h.inout(name[1], {rows, width}, 4, out),
                                      h.inout(name[3], {docs, stride}, 5, longest).data);
              low_rank_up_backward<U>(h.device, dy, xa, up(s),
                                      h.inout(name[2], {rows, width}, 4, out),
                                      static_cast<U*>(nullptr));
            }
            low_rank_down_backward<U>(h.device, dxa, x, down(pairs.data),
                                      h.inout("dx", {rows, in}, 4, width),
                                      down(h.inout("dA", {docs, stride}, 5, longest).data));
            low_rank_down_backward<U>(h.device, dxa, x, down(pairs.data),
                                      h.inout("dx, frozen", {rows, in}, 4, width),
                                      LowRankDown<U>{});
            low_rank_down_backward<U>(h.device, dxa, x, down(pairs.data), {},
                                      down(h.inout("dA alone", {docs, stride}, 5, longest).data));
          });

  // Adapters at places 1, 2 … of the group, the first scaled and the last without gradients.
  struct LowRankUpsCase {
    std::vector<int64_t> out;
    int64_t R;
    std::vector<int32_t> starts;
    RunsOn on = RunsOn::all;
  };
  for (const LowRankUpsCase& c : {LowRankUpsCase{{512, 256, 256, 512}, 96, kShortDocs, RunsOn::gpu},
                                  {{64, 192}, 96, kRaggedDocs, RunsOn::gpu},
                                  {{264, 40, 64}, 32, {3, 5303, 5304, 7352, 9401}, RunsOn::gpu},
                                  {{256, 512, 72}, 96, {3, 5303, 5304, 7352, 9401}, RunsOn::gpu},
                                  {{512, 256}, 64, kRaggedDocs, RunsOn::gpu},
                                  {{40, 512, 256}, 16, kRaggedDocs, RunsOn::gpu},
                                  {{72, 136}, 8, kRaggedDocs},
                                  {{2048, 2072}, 96, kChunkDocs, RunsOn::gpu},
                                  {{64}, 160, kShortDocs},
                                  {{34, 50}, 5, kShortDocs}})
    visit({"low_rank_ups_backward_" + std::to_string(c.out.size()) + "_of_" +
               std::to_string(c.out[0]) + "x" + std::to_string(c.R),
           c.on},
          [c](auto& h) {
            using U = typename std::remove_reference_t<decltype(h)>::T;
            using A = Accum<U>;
            const auto& [out, R, starts, on] = c;
            const int G = static_cast<int>(out.size()) + 1;
            const int64_t docs = std::ssize(starts) - 1, rows = starts.back() - starts.front();
            AdapterInputs adapters(h, starts, R, G);
            const auto xa = h.in({rows, adapters.width()});
            const auto dxa = h.inout("dxa", {rows, adapters.width()}, 4, 2072);
            std::vector<LowRankUpBackward<U>> ups;
            for (int i = 0; i + 1 < G; ++i) {
              const int64_t width = out[static_cast<size_t>(i)];
              const A* const scale = i == 0 ? h.vec({width}, 0.5, 1).data : nullptr;
              const auto up = adapters.up(width, i + 1, scale);
              U* const db =
                  i + 2 == G && i > 0 ? nullptr : h.inout("dB", {docs, up.stride}, 5, 5300).data;
              ups.push_back({up, h.in({rows, width}), db});
            }
            low_rank_ups_backward<U>(h.device, ups, xa, dxa);
          });
}

}  // namespace fairway::testing
