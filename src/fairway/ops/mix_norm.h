// The way into a block: u = mix0⊙x + mix1⊙x0 and its norm n = scale·u·rstd, rstd = 1/sqrt(mean(u²)
// + eps) per row. x, x0, u, n [T, D]; mix [2, D]; rstd [T].
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// u may be null: not kept.
template <class T>
void mix_norm(CpuDevice& device, Tensor<const T> x, Tensor<const T> x0, Tensor<const T> mix,
              double eps, double scale, Tensor<T> u, Tensor<T> rstd, Tensor<T> n);
template <class T>
void mix_norm(CudaDevice& device, Tensor<const T> x, Tensor<const T> x0, Tensor<const Accum<T>> mix,
              double eps, double scale, Tensor<T> u, Tensor<Accum<T>> rstd, Tensor<T> n);

// What mix_norm's backward reads. x and x0 are needed for dmix alone, and give u again then, so
// that n is not read; without dmix the norm is undone from its output, and they are not read.
template <class T>
struct MixNormGradient {
  Tensor<const T> dn;           // [T, D]
  Tensor<const T> du;           // [T, D] what else flows into u; null: nothing
  Tensor<const T> n;            // [T, D]; with dmix taken for scale·rstd·u
  Tensor<const Accum<T>> rstd;  // [T]
  double scale = 1;
  Tensor<const T> x, x0;       // [T, D]
  Tensor<const Accum<T>> mix;  // [2, D]
};

// With g = du + rstd·(scale·dn − n·mean(dn⊙n)/scale):
//   dx = mix0⊙g + plus;  dx0 += mix1⊙g;  dmix[0] += Σ_t g⊙x, dmix[1] += Σ_t g⊙x0.
// plus, what else flows into x, may be null: nothing. dx0 and dmix may be null: not computed. dx
// may be null where x is x0 itself: its gradient joins dx0.  dx may be du or plus.
template <class T>
void mix_norm_backward(CpuDevice& device, const MixNormGradient<T>& in, Tensor<const T> plus,
                       Tensor<T> dx, Tensor<T> dx0, Tensor<T> dmix);
template <class T>
void mix_norm_backward(CudaDevice& device, const MixNormGradient<T>& in, Tensor<const T> plus,
                       Tensor<T> dx, Tensor<T> dx0, Tensor<Accum<T>> dmix);

}  // namespace fairway
