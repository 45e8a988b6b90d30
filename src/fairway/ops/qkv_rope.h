// q, k and v of one input, with QK norm, rotary embedding and gain on the way: three products and
// rope_gain of q and k (ops/rope_gain.h), which need not pass through memory in between.
#pragma once

#include "fairway/ops/linear.h"
#include "fairway/ops/rope_gain.h"

namespace fairway {

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

// The two halves by themselves, for what must happen in between: q_rot and k_rot hold q and k
// first.
template <class T, class Device>
void qkv_products(Device& device, Tensor<const T> n, const QkvMaps<T>& maps,
                  const QkvRotated<T>& out) {
  linear<T>(device, n, maps.wq, out.q_rot, false);
  linear<T>(device, n, maps.wk, out.k_rot, false);
  linear<T>(device, n, maps.wv, out.v, false);
}
template <class T, class Device>
void qk_rope(Device& device, const QkvMaps<T>& maps, const QkvRotated<T>& out) {
  rope_gain<T>(device, out.q_rot, maps.q_gain, maps.cosine, maps.sine, maps.eps, out.q_rot,
               out.rstd_q);
  rope_gain<T>(device, out.k_rot, {}, maps.cosine, maps.sine, maps.eps, out.k_rot, out.rstd_k);
}

}  // namespace fairway
