// The MLP sub-layer: forward from before its norm, backward to behind it. Internal to model/.
#pragma once

#include "fairway/model/layer.h"
#include "fairway/model/model.h"

namespace fairway {

// From x: fills acts' rstd_mlp, mlp_in, hidden (where it is kept), mlp_xa and out = residual +
// mlp_scale⊙MLP (null residual: without); x may be the residual. `wdown_scaled`: Wdown with the
// scale folded in; `e4m3`: it and Wup as e4m3 operands, which are then read instead (null: not).
template <class Device, class T>
void mlp_forward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                 const Lora<const Accum<T>>* lora, Tensor<const T> wdown_scaled,
                 const MlpE4m3<T>& e4m3, const VisitActs<T>& acts, Tensor<const T> x,
                 Tensor<const T> residual, Tensor<T> out);

// From dout, the gradient of what was added: what goes back through the norm is added to dx, which
// may be dout; where there is a place for them, weight gradients accumulate and adapter gradients
// are written. `transposed`: copies of Wup and `wdown_scaled`, or nulls. `dout_e4m3`: dout as
// mlp_e4m3_dm_rows has it, or null. Consumes acts' hidden. Scratch: dn like mlp_in, `dxa` like
// VisitActs::mlp_xa.
template <class Device, class T>
void mlp_backward(Device& device, const Network& net, int s, const Layer<const T>& layer,
                  const Lora<const Accum<T>>* lora, Tensor<const T> wdown_scaled,
                  const MlpTransposed<T>& transposed, const MlpE4m3<T>& e4m3,
                  const VisitActs<T>& acts, Tensor<const T> dout, Tensor<T> dx, Tensor<T> dn,
                  const Layer<Accum<T>>& dlayer, Tensor<Accum<T>> dwdown_scaled,
                  const Lora<T>* dlora, Tensor<T> dxa, const E4m3Rows& dout_e4m3);

}  // namespace fairway
