// QK norm, rotary embedding and gain: what happens to q and k between their products and attention.
//
//   q_rot = gain[head] · R(pos) · rms(q),   k_rot = R(pos) · rms(k),   rms over the head width d.
//
// R rotates the first `rope_dims` of d, half-split: with half = rope_dims/2, x1 = x[:half],
// x2 = x[half:2·half]: (x1 cos + x2 sin, x2 cos − x1 sin), angle = pos · base^(−2j/rope_dims).
// Positions restart at each segment: scores depend on differences only.
//
// Back from the output alone, since R keeps lengths and R(pos)·rms(q) = q_rot / gain:
//   a = dx_rot·x_rot,   dgain += a/gain,   dx = rstd · Rᵀ(gain·dx_rot − x_rot·a/(gain·d)).
// What a gain of exactly 0 has wiped out stays unknown: dgain gets nothing then, and dx is 0.
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// cos and sin of every position's angles, [T, rope_dims/2] each, from cu_seqlens.
template <class T>
void rope_table(CpuDevice& device, Tensor<const int32_t> cu_seqlens, int rope_dims, double base,
                Tensor<T> cosine, Tensor<T> sine);
template <class T>
void rope_table(CudaDevice& device, Tensor<const int32_t> cu_seqlens, int rope_dims, double base,
                Tensor<Accum<T>> cosine, Tensor<Accum<T>> sine);

// x [T, heads, d] → x_rot of the same shape, which may be x, and rstd [T, heads], 1/rms of x. gain
// [heads], or null for 1.
template <class T>
void rope_gain(CpuDevice& device, Tensor<const T> x, Tensor<const T> gain, Tensor<const T> cosine,
               Tensor<const T> sine, double eps, Tensor<T> x_rot, Tensor<T> rstd);
template <class T>
void rope_gain(CudaDevice& device, Tensor<const T> x, Tensor<const Accum<T>> gain,
               Tensor<const Accum<T>> cosine, Tensor<const Accum<T>> sine, double eps,
               Tensor<T> x_rot, Tensor<Accum<T>> rstd);

// dx from dx_rot (dx may be dx_rot), x_rot and rstd; dgain [heads] accumulates unless null.
template <class T>
void rope_gain_backward(CpuDevice& device, Tensor<const T> dx_rot, Tensor<const T> x_rot,
                        Tensor<const T> rstd, Tensor<const T> gain, Tensor<const T> cosine,
                        Tensor<const T> sine, Tensor<T> dx, Tensor<T> dgain);
template <class T>
void rope_gain_backward(CudaDevice& device, Tensor<const T> dx_rot, Tensor<const T> x_rot,
                        Tensor<const Accum<T>> rstd, Tensor<const Accum<T>> gain,
                        Tensor<const Accum<T>> cosine, Tensor<const Accum<T>> sine, Tensor<T> dx,
                        Tensor<Accum<T>> dgain);

// What rope_gain left of q and k, for attention's backward: with it, attention's dq and dk become
// the gradients of what was normed.
template <class T>
struct RopeBackward {
  Tensor<const Accum<T>> rstd_q, rstd_k;  // [Q, H], [T, K]
  Tensor<const Accum<T>> q_gain;          // [H]
  Tensor<const Accum<T>> cosine, sine;    // [T, rotary_dims/2]
  Tensor<Accum<T>> dq_gain;               // [H], accumulates; null: not wanted
  // [Q, rotary_dims/2] of q's rows, where they are not k's (attention_varlen.h); null: they are.
  Tensor<const Accum<T>> q_cosine{}, q_sine{};

  struct Table {
    Tensor<const Accum<T>> cosine, sine;
  };
  Table of_q() const { return q_cosine ? Table{q_cosine, q_sine} : Table{cosine, sine}; }
};
// dq and dk from their gradients of q_rot and k_rot, in place.
template <class T, class Device>
void rope_backward_in_place(Device& device, const RopeBackward<T>& rope, Tensor<const T> q_rot,
                            Tensor<const T> k_rot, Tensor<T> dq, Tensor<T> dk) {
  rope_gain_backward<T>(device, dq, q_rot, rope.rstd_q, rope.q_gain, rope.of_q().cosine,
                        rope.of_q().sine, dq, rope.dq_gain);
  rope_gain_backward<T>(device, dk, k_rot, rope.rstd_k, {}, rope.cosine, rope.sine, dk, {});
}

}  // namespace fairway
