// The inputs of a visit's matrix products that Acts does not store, computed again from what it
// does. The backward pass needs them for the weights' gradients, GPTQ for its Hessians.
#pragma once

#include "fairway/device/device.h"
#include "fairway/model/acts.h"
#include "fairway/model/model.h"

namespace fairway {

template <class T>
struct VisitInputs {
  Tensor<T> u;        // [T, D] mix0⊙x + mix1⊙x0
  Tensor<T> attn_in;  // [T, D] rms(u)·ln: the input of Wq, Wk, Wv
  Tensor<T> h;        // [T, D] the MLP's stream before its norm (parallel visits: acts' lane1)
  Tensor<T> mlp_in;   // [T, D] rms(h)·ln: the input of Wup
  // The input of Wo is VisitActs::y; that of Wdown is leaky_sq(VisitActs::z).
};

template <class T>
VisitInputs<T> take_visit_inputs(const ModelConfig& config, int64_t rows, Arena& arena);

// Fills `inputs` for visit s of a finished forward pass. `inputs.h` is redirected for parallel
// visits.
template <class Device, class T>
void visit_inputs(Device& device, const Network& net, const Weights<const T>& w,
                  const Acts<T>& acts, int s, VisitInputs<T>& inputs);

}  // namespace fairway
