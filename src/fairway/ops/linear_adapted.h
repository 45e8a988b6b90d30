// Linear maps (ops/linear.h) with low-rank adapters beside them (ops/low_rank.h), in one pass: what
// adapters add need not pass through memory. Without adapters, the map alone.
#pragma once

#include "fairway/ops/linear.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// y [T, out] = residual + x Wᵀ + what is added. A null residual: without; y may be the residual.
template <class T>
void linear_adapted(CpuDevice& device, Tensor<const T> x, Tensor<const T> w,
                    Tensor<const T> residual, const LowRankAdded<T>& added, Tensor<T> y);
template <class T>
void linear_adapted(CudaDevice& device, Tensor<const T> x, Tensor<const T> w,
                    Tensor<const T> residual, const LowRankAdded<T>& added, Tensor<T> y);

// dx [T, in] = dy W + what is added. `w_transposed` [in, out]: a copy of W
// (ops/transposed_weights.h); null: the op makes what it needs.
template <class T>
void linear_adapted_backward_input(CpuDevice& device, Tensor<const T> dy, Tensor<const T> w,
                                   const LowRankAddedBack<T>& added, Tensor<T> dx,
                                   Tensor<const T> w_transposed = {});
template <class T>
void linear_adapted_backward_input(CudaDevice& device, Tensor<const T> dy, Tensor<const T> w,
                                   const LowRankAddedBack<T>& added, Tensor<T> dx,
                                   Tensor<const T> w_transposed = {});

// dx [T, in] = Σ_i dy[i] w[i] + what is added.
template <class T>
void linear_three_adapted_backward_input(CpuDevice& device, const LinearThree<T>& maps,
                                         const LowRankAddedBack<T>& added, Tensor<T> dx);
template <class T>
void linear_three_adapted_backward_input(CudaDevice& device, const LinearThree<T>& maps,
                                         const LowRankAddedBack<T>& added, Tensor<T> dx);

// y += and dx += what is added, by itself.
template <class T, class Device>
void add_low_rank(Device& device, const LowRankAdded<T>& added, Tensor<T> y) {
  if (added) low_rank_up<T>(device, added.xa, added.up, y);
}
template <class T, class Device>
void add_low_rank(Device& device, const LowRankAddedBack<T>& added, Tensor<T> dx) {
  // Only the adapters' gradients, which are not wanted, need the input: dx takes its place.
  if (added) low_rank_down_backward<T>(device, added.dxa, dx, added.down, dx, {});
}

// The same step by step.
template <class T, class Device>
void linear_adapted_steps(Device& device, Tensor<const T> x, Tensor<const T> w,
                          Tensor<const T> residual, const LowRankAdded<T>& added, Tensor<T> y) {
  if (residual)
    linear_add<T>(device, x, w, residual, y);
  else
    linear<T>(device, x, w, y, false);
  add_low_rank<T>(device, added, y);
}
template <class T, class Device>
void linear_adapted_backward_input_steps(Device& device, Tensor<const T> dy, Tensor<const T> w,
                                         const LowRankAddedBack<T>& added, Tensor<T> dx) {
  linear_backward_input<T>(device, dy, w, dx, false);
  add_low_rank<T>(device, added, dx);
}
template <class T, class Device>
void linear_three_adapted_backward_input_steps(Device& device, const LinearThree<T>& maps,
                                               const LowRankAddedBack<T>& added, Tensor<T> dx) {
  linear_three_backward_input<T>(device, maps, dx);
  add_low_rank<T>(device, added, dx);
}

}  // namespace fairway
