// The elementwise joints of the residual stream: lanes, multiples and sums. (Skip connections end
// in ops/mix_norm.h.) Gradients of scalars accumulate; a null gradient tensor is not computed
// (test-time training has none).
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// The parallel lanes of one slot. pl [2, 2] = pl[from attn|mlp][to lane], rl [2]:
//   out_j = rl_j·lane_j + pl[0][j]·a + pl[1][j]·m,  a and m with their scales in them.
template <class T>
struct LaneJoin {
  Tensor<const T> lane0, lane1, a, m;  // [T, D]
  Tensor<const Accum<T>> pl, rl;       // [2, 2], [2]
};
template <class T>
void lane_join(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1);
template <class T>
void lane_join(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1);
// d0, d1: gradients of the outputs, replaced by those of lane0 and lane1. da, dm are written.
// dpl, drl accumulate, both or neither.
template <class T>
void lane_join_backward(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<T> dpl, Tensor<T> drl);
template <class T>
void lane_join_backward(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<Accum<T>> dpl, Tensor<Accum<T>> drl);

// The lanes' end: of the last slot's outputs only x = Σ_j share_j·out_j is wanted.
struct LaneShares {
  double of0, of1;
};
template <class T>
void lane_end(CpuDevice& device, const LaneJoin<T>& in, LaneShares shares, Tensor<T> x);
template <class T>
void lane_end(CudaDevice& device, const LaneJoin<T>& in, LaneShares shares, Tensor<T> x);
// d: the gradient of x. d0, d1, da, dm are written; dpl, drl accumulate, both or neither.
template <class T>
void lane_end_backward(CpuDevice& device, const LaneJoin<T>& in, LaneShares shares,
                       Tensor<const T> d, Tensor<T> d0, Tensor<T> d1, Tensor<T> da, Tensor<T> dm,
                       Tensor<T> dpl, Tensor<T> drl);
template <class T>
void lane_end_backward(CudaDevice& device, const LaneJoin<T>& in, LaneShares shares,
                       Tensor<const T> d, Tensor<T> d0, Tensor<T> d1, Tensor<T> da, Tensor<T> dm,
                       Tensor<Accum<T>> dpl, Tensor<Accum<T>> drl);

// y = factor·x.
template <class T>
void scale_to(CpuDevice& device, Tensor<const T> x, double factor, Tensor<T> y);
template <class T>
void scale_to(CudaDevice& device, Tensor<const T> x, double factor, Tensor<T> y);
// y += x.
template <class T>
void add(CpuDevice& device, Tensor<const T> x, Tensor<T> y);
template <class T>
void add(CudaDevice& device, Tensor<const T> x, Tensor<T> y);

}  // namespace fairway
