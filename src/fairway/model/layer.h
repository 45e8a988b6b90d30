// One layer's parameters, or their gradients. Internal to model/.
#pragma once

#include "fairway/model/weights.h"

namespace fairway {

template <class T>
struct Layer {
  Tensor<T> wq, wk, wv, wo;                      // [D, D], [Kd, D], [Kd, D], [D, D]
  Tensor<T> wup, wdown;                          // [F, D], [D, F]
  Tensor<Accum<T>> q_gain;                       // [H]
  Tensor<Accum<T>> attn_scale, mlp_scale;        // [D]
  Tensor<Accum<T>> resid_mix;                    // [2, D]
  Tensor<Accum<T>> post_lambdas, resid_lambdas;  // [2, 2], [2]
};

template <class T>
Layer<T> layer_of(const Weights<T>& w, int i) {
  return {w.wq(i),
          w.wk(i),
          w.wv(i),
          w.wo(i),
          w.wup(i),
          w.wdown(i),
          w.q_gain.slice(i),
          w.attn_scale.slice(i),
          w.mlp_scale.slice(i),
          w.resid_mix.slice(i),
          w.parallel_post_lambdas.slice(i),
          w.parallel_resid_lambdas.slice(i)};
}

// All null when there is nowhere to put gradients.
template <class T>
Layer<T> gradients_of(const Weights<T>* dw, int i) {
  return dw ? layer_of(*dw, i) : Layer<T>{};
}

}  // namespace fairway
