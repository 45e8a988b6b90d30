// Transposed copies of layers' matrices. A product on the way back reads a matrix as it lies or,
// in bf16 on Hopper, transposed. An op that is given no copy makes what it needs; for a pass, which
// may visit a layer more than once, they are made here, all at once. Legend: L layers, D model
// width, Kd key/value width, F MLP width.
#pragma once

#include <cstdint>

#include "fairway/base/tensor.h"
#include "fairway/device/device.h"
#include "fairway/ops/mlp_leaky_sq.h"

namespace fairway {

// What products on the way back read.
template <class T>
struct BackwardWeights {
  Tensor<const T> wq, wk, wv;  // [L, D, D], [L, Kd, D], [L, Kd, D]
  Tensor<const T> wo;          // [L, D, D]
  Tensor<const T> wup, wdown;  // [L, F, D], [L, D, F]; null: no copy is wanted
};

// Of all layers, with L in front, or of one. Null: there is none, and the op goes without.
template <class T>
struct TransposedWeights {
  Tensor<const T> qkv;   // [D, D + 2Kd] those of Wq, Wk and Wv beside each other
  Tensor<const T> wo;    // [D, D]
  MlpTransposed<T> mlp;  // [D, F], [F, D]

  TransposedWeights slice(int64_t i) const {
    return {qkv.slice(i), wo.slice(i), {mlp.wup.slice(i), mlp.wdown.slice(i)}};
  }
};

// In memory of the device that its next call uses again. All null where products want none, or
// widths are such that they do not.
template <class T>
TransposedWeights<T> transposed_weights(CpuDevice&, const BackwardWeights<T>&) {
  return {};
}
template <class T>
TransposedWeights<T> transposed_weights(CudaDevice& device, const BackwardWeights<T>& w);

}  // namespace fairway
