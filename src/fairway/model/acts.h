// Every tensor that a forward pass leaves behind, by name. T rows (tokens of the packed buffer), N
// rows that reach the head, D model width, H/K query/key-value heads of width d, F MLP width.
#pragma once

#include <cstdint>
#include <vector>

#include "fairway/base/accum.h"
#include "fairway/base/arena.h"
#include "fairway/base/tensor.h"
#include "fairway/device/cpu_device.h"
#include "fairway/model/config.h"
#include "fairway/model/lora.h"
#include "fairway/model/route.h"
#include "fairway/ops/mlp_e4m3.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway {

// The last visit's part of the rows that reach the head, where these are not all: there N rows go
// on from attention's input, and only keys and values are all rows'.
template <class T>
struct PickedRows {
  Tensor<T> attn_in;   // [N, D] of VisitActs::attn_in
  Tensor<T> attn_xa;   // [N, adapters·R] attn_in Aᵀ of q and o (with adapters only)
  Tensor<T> x, lane1;  // [N, D] of VisitActs::x and lane1 (parallel visits only)

  explicit operator bool() const { return static_cast<bool>(attn_in); }
};

// What one visit of the route saves for its backward. Where rows are picked, all from q_rot on but
// k_rot, rstd_k, v and attn_xa have N rows instead of T.
template <class T>
struct VisitActs {
  Tensor<T> x_pre;             // [T, D] input of the block (lane 0), before the skip mix
  Tensor<T> x;                 // [T, D] the same after it (parallel visits only; = x_pre without)
  Tensor<T> lane1;             // [T, D] lane 1 (parallel visits only)
  Tensor<Accum<T>> rstd_attn;  // [T]    1/rms of u = mix0⊙x + mix1⊙x0
  Tensor<T> attn_in;           // [T, D] rms(u)·ln: the input of Wq, Wk, Wv
  Tensor<T> q_rot;             // [T, H, d] q after norm, rotary and gain, in the product's place
  Tensor<T> k_rot;             // [T, K, d] k after norm and rotary, in the product's place
  Tensor<Accum<T>> rstd_q;     // [T, H] 1/rms of the product q
  Tensor<Accum<T>> rstd_k;     // [T, K] 1/rms of the product k
  Tensor<T> v;                 // [T, K, d]
  Tensor<Accum<T>> lse;        // [H, T] log-sum-exp of each query's scores
  Tensor<T> y;                 // [T, H, d] attention output, after XSA: the input of Wo
  Tensor<Accum<T>> y_dot_v;    // [T, H] y·v̂ before XSA (XSA visits only)
  Tensor<Accum<T>> rstd_mlp;   // [T]    1/rms of the MLP's input stream
  Tensor<T> mlp_in;            // [T, D] rms(stream)·ln: the input of Wup
  MlpHidden<T> hidden;         // [T, F] of the MLP; backward consumes it
  // [T, adapters·R] attn_in Aᵀ, mlp_in Aᵀ (with adapters only); where rows are picked, attn_xa is
  // of k and v alone.
  Tensor<T> attn_xa, mlp_xa;
  Tensor<T> a, m;  // [T, D] attn_scale⊙attention, mlp_scale⊙MLP (parallel visits only)
  PickedRows<T> picked;
};

// What the network reads instead of some of the weights: fold_weights (model/model.h) makes it,
// once for weights that stay as they are.
template <class T>
struct FoldedWeights {
  Tensor<T> wo;            // [L, D, D] Wo of each layer with attn_scale folded in
  Tensor<T> wdown;         // [L, D, F] Wdown with mlp_scale
  Tensor<Accum<T>> skips;  // [num_skip, 2, D] skip connections as ops/fold_skips.h has them
  MlpE4m3<T> mlp_e4m3;     // Wup and the scaled Wdown as e4m3 operands; null where they are not
};

template <class T>
struct Acts {
  FoldedWeights<T> folded;    // the caller's
  Tensor<Accum<T>> emb_rstd;  // [T]
  Tensor<T> x0;               // [T, D] rms(E[token])
  std::vector<VisitActs<T>> visits;
  Tensor<T> final_x;           // [N, D] after the last visit and the join of the lanes
  Tensor<Accum<T>> head_rstd;  // [N]
  Tensor<T> head_in;           // [N, D] rms(final_x)
  Tensor<T> d_final_x;         // [N, D] gradient that head_loss leaves for backward
};

// Whether the MLP's products have e4m3 operands (ops/mlp_e4m3.h), and what is then kept of the
// hidden rows: MlpHidden::z without signs, or f and z in bytes.
enum class E4m3Mlp { off, values, bytes };
// What `precision` comes to on a device.
template <class T, class Device>
E4m3Mlp e4m3_mlp(const Device& device, const ModelConfig& config, MatmulPrecision precision) {
  if (precision != MatmulPrecision::float8) return E4m3Mlp::off;
  return mlp_e4m3_keeps_bytes<T>(device, config.model_dim, config.mlp_dim()) ? E4m3Mlp::bytes
                                                                             : E4m3Mlp::values;
}

// Lays the tensors out in `arena` (dry or real).
template <class T>
FoldedWeights<T> take_folded(const ModelConfig& config, E4m3Mlp mlp, Arena& arena);

// Lays all tensors but `folded` out in `arena` (dry or real), for batches whose `rows` are given if
// head_rows < rows and null if they are equal. Without `for_backward`, visits share their tensors:
// only what the rest of the forward pass reads is kept apart, and the last visit's where rows are
// picked. `lora`: what adapters there may be; null: none. With them weights have no gradients, and
// what only these read is not kept: f of e4m3 operands in bytes.
template <class T>
Acts<T> take_acts(const ModelConfig& config, const Route& route, int64_t rows, int64_t head_rows,
                  bool for_backward, Arena& arena, const LoraConfig* lora = nullptr,
                  E4m3Mlp mlp = E4m3Mlp::off);

}  // namespace fairway
