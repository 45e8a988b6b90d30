// The head's loss and its gradients: logits z = x wᵀ, l = c·tanh(z/c), nll = log Σ e^l − l[target].
// The steps are ops by themselves (ops/linear.h, ops/softcap_xent.h); as one op, the softcap and
// the sums need not be passes over the logits of their own.
#pragma once

#include <cstdint>

#include "fairway/ops/linear.h"
#include "fairway/ops/softcap_xent.h"

namespace fairway {

template <class T>
struct LinearXent {
  Tensor<const T> x;              // [N, D]
  Tensor<const T> w;              // [V, D]
  Tensor<const int32_t> targets;  // [N]
  double cap;
  const Accum<T>* d_nll;  // [N], each row's weight in the loss; null: no gradients
};
template <class T>
struct LinearXentOut {
  Tensor<Accum<T>> nll;  // [N]
  // With gradients, else null: that of x is dx [N, D], written, but each row may lack a factor.
  // `factor` [N] is multiplied by it, for a caller that has a factor to apply to the rows anyway.
  Tensor<T> dx;
  Tensor<Accum<T>> factor;
  Tensor<Accum<T>> dw;  // [V, D], added to; may be null
};

// z [N, V]: scratch. cap > 0. A row's results but for dw depend on that row alone, bit for bit.
template <class T>
void linear_xent(CpuDevice& device, const LinearXent<T>& in, Tensor<T> z,
                 const LinearXentOut<T>& out);
template <class T>
void linear_xent(CudaDevice& device, const LinearXent<T>& in, Tensor<T> z,
                 const LinearXentOut<T>& out);

// The same step by step: dx lacks nothing.
template <class T, class Device>
void linear_xent_steps(Device& device, const LinearXent<T>& in, Tensor<T> z,
                       const LinearXentOut<T>& out) {
  linear<T>(device, in.x, in.w, z, false);
  softcap_xent<T>(device, z, in.targets, in.cap, in.d_nll, out.nll);
  if (!in.d_nll) return;
  linear_backward_input<T>(device, z, in.w, out.dx, false);
  if (out.dw) linear_backward_weight<T>(device, z, in.x, out.dw);
}

}  // namespace fairway
