// The elementwise joints of the residual stream: input mix, scaled addition, skip connection,
// lanes. Vectors over D broadcast over the T rows. Gradients of vectors and scalars accumulate; a
// null gradient tensor is not computed (test-time training has none).
#pragma once

#include <array>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// u = mix0⊙x + mix1⊙x0;  mix [2, D].
template <class T>
void resid_mix(CpuDevice& device, Tensor<const T> x, Tensor<const T> x0, Tensor<const T> mix,
               Tensor<T> u);
template <class T>
void resid_mix(CudaDevice& device, Tensor<const T> x, Tensor<const T> x0,
               Tensor<const Accum<T>> mix, Tensor<T> u);
// dx = mix0⊙du, or dx += with `accumulate_dx`;  dx0 += mix1⊙du;  dmix[0] += Σ_t du⊙x, dmix[1] +=
// Σ_t du⊙x0. dx may be du.
template <class T>
void resid_mix_backward(CpuDevice& device, Tensor<const T> du, Tensor<const T> x,
                        Tensor<const T> x0, Tensor<const T> mix, bool accumulate_dx, Tensor<T> dx,
                        Tensor<T> dx0, Tensor<T> dmix);
template <class T>
void resid_mix_backward(CudaDevice& device, Tensor<const T> du, Tensor<const T> x,
                        Tensor<const T> x0, Tensor<const Accum<T>> mix, bool accumulate_dx,
                        Tensor<T> dx, Tensor<T> dx0, Tensor<Accum<T>> dmix);

// y = x + scale⊙a;  scale [D]. y may be x.
template <class T>
void scaled_add(CpuDevice& device, Tensor<const T> x, Tensor<const T> scale, Tensor<const T> a,
                Tensor<T> y);
template <class T>
void scaled_add(CudaDevice& device, Tensor<const T> x, Tensor<const Accum<T>> scale,
                Tensor<const T> a, Tensor<T> y);
// da = scale⊙dy;  dscale += Σ_t dy⊙a. (dx is dy.)
template <class T>
void scaled_add_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> a,
                         Tensor<const T> scale, Tensor<T> da, Tensor<T> dscale);
template <class T>
void scaled_add_backward(CudaDevice& device, Tensor<const T> dy, Tensor<const T> a,
                         Tensor<const Accum<T>> scale, Tensor<T> da, Tensor<Accum<T>> dscale);

// y = g⊙x + (1−g)⊙(w⊙k), g = σ(gate);  without gates (null `gate`) y = x + w⊙k.  w, gate [D].
template <class T>
void skip_mix(CpuDevice& device, Tensor<const T> x, Tensor<const T> k, Tensor<const T> w,
              Tensor<const T> gate, Tensor<T> y);
template <class T>
void skip_mix(CudaDevice& device, Tensor<const T> x, Tensor<const T> k, Tensor<const Accum<T>> w,
              Tensor<const Accum<T>> gate, Tensor<T> y);
// dy becomes dx in place;  dk = the skip's gradient;  dw, dgate accumulate.
template <class T>
void skip_mix_backward(CpuDevice& device, Tensor<const T> x, Tensor<const T> k, Tensor<const T> w,
                       Tensor<const T> gate, Tensor<T> dy, Tensor<T> dk, Tensor<T> dw,
                       Tensor<T> dgate);
template <class T>
void skip_mix_backward(CudaDevice& device, Tensor<const T> x, Tensor<const T> k,
                       Tensor<const Accum<T>> w, Tensor<const Accum<T>> gate, Tensor<T> dy,
                       Tensor<T> dk, Tensor<Accum<T>> dw, Tensor<Accum<T>> dgate);

// The parallel lanes of one slot. pl [2, 2] = pl[from attn|mlp][to lane], rl [2]:
//   out_j = rl_j·lane_j + pl[0][j]·(attn_scale⊙a) + pl[1][j]·(mlp_scale⊙m).
template <class T>
struct LaneJoin {
  Tensor<const T> lane0, lane1, a, m;            // [T, D]
  Tensor<const Accum<T>> attn_scale, mlp_scale;  // [D]
  Tensor<const Accum<T>> pl, rl;                 // [2, 2], [2]
};
template <class T>
void lane_join(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1);
template <class T>
void lane_join(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> out0, Tensor<T> out1);
// d0, d1: gradients of the outputs, replaced by those of lane0 and lane1. da, dm are written.
// dattn_scale, dmlp_scale, dpl, drl accumulate, all or none.
template <class T>
void lane_join_backward(CpuDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<T> dattn_scale, Tensor<T> dmlp_scale,
                        Tensor<T> dpl, Tensor<T> drl);
template <class T>
void lane_join_backward(CudaDevice& device, const LaneJoin<T>& in, Tensor<T> d0, Tensor<T> d1,
                        Tensor<T> da, Tensor<T> dm, Tensor<Accum<T>> dattn_scale,
                        Tensor<Accum<T>> dmlp_scale, Tensor<Accum<T>> dpl, Tensor<Accum<T>> drl);

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
// y = (a + b)/2.
template <class T>
void mean_of(CpuDevice& device, Tensor<const T> a, Tensor<const T> b, Tensor<T> y);
template <class T>
void mean_of(CudaDevice& device, Tensor<const T> a, Tensor<const T> b, Tensor<T> y);

}  // namespace fairway
