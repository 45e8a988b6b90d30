// q, k and v of one input, with QK norm, rotary embedding and gain on the way: three products and
// rope_gain of q and k (ops/rope_gain.h), which need not pass through memory in between.
#pragma once

#include "fairway/ops/linear.h"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/rope_gain.h"

namespace fairway {

// q, or k and v, may be left out: their matrices and outputs are null then. What remains is the
// same bits.
template <class T>
struct QkvMaps {
  Tensor<const T> wq, wk, wv;           // [H·d, D], [K·d, D], [K·d, D]
  Tensor<const Accum<T>> q_gain;        // [H]
  Tensor<const Accum<T>> cosine, sine;  // [T, rope_dims/2] of rope_table
  double eps;
};
template <class T>
struct QkvRotated {
  Tensor<T> q_rot, k_rot, v;        // [T, H, d], [T, K, d], [T, K, d]
  Tensor<Accum<T>> rstd_q, rstd_k;  // [T, H], [T, K]
};

// n [T, D] → out.
template <class T>
void qkv_rope(CpuDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
              const QkvRotated<T>& out);
template <class T>
void qkv_rope(CudaDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
              const QkvRotated<T>& out);

// Low-rank adapters beside the three maps (ops/low_rank.h), any of which may be missing.
template <class T>
struct QkvAdapters {
  LowRankUp<const Accum<T>> q, k, v;
  Tensor<const T> xa;  // [T, G·R]
};

// The same with adapters: what they add to q, k and v comes before QK norm.
template <class T>
void qkv_rope_adapted(CpuDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
                      const QkvAdapters<T>& adapters, const QkvRotated<T>& out);
template <class T>
void qkv_rope_adapted(CudaDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
                      const QkvAdapters<T>& adapters, const QkvRotated<T>& out);

// Step by step; q_rot and k_rot hold q and k first.
template <class T, class Device>
void qkv_rope_steps(Device& device, Tensor<const T> n, const QkvMaps<T>& maps,
                    const QkvAdapters<T>& adapters, const QkvRotated<T>& out) {
  if (maps.wq) {
    linear<T>(device, n, maps.wq, out.q_rot, false);
    if (adapters.q) low_rank_up<T>(device, adapters.xa, adapters.q, out.q_rot);
    rope_gain<T>(device, out.q_rot, maps.q_gain, maps.cosine, maps.sine, maps.eps, out.q_rot,
                 out.rstd_q);
  }
  if (maps.wk) {
    linear<T>(device, n, maps.wk, out.k_rot, false);
    linear<T>(device, n, maps.wv, out.v, false);
    if (adapters.k) low_rank_up<T>(device, adapters.xa, adapters.k, out.k_rot);
    if (adapters.v) low_rank_up<T>(device, adapters.xa, adapters.v, out.v);
    rope_gain<T>(device, out.k_rot, {}, maps.cosine, maps.sine, maps.eps, out.k_rot, out.rstd_k);
  }
}

}  // namespace fairway
