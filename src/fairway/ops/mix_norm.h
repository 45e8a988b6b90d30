// The way into a block: u = mix0⊙x + mix1⊙x0 and its norm n = scale·u·rstd, rstd = 1/sqrt(mean(u²)
// + eps) per row. x, x0, u, n [T, D]; mix [2, D]; rstd [T].
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"
#include "fairway/ops/e4m3_rows.h"

namespace fairway {

// The input x of a block: x_pre, or where a skip connection ends (k not null)
// x = skip0⊙x_pre + skip1⊙k, skip as ops/fold_skips.h has it.
template <class T>
struct BlockInput {
  Tensor<const T> x_pre, k;     // [T, D]
  Tensor<const Accum<T>> skip;  // [2, D]
};

// x and u may be null: not kept.
template <class T>
void mix_norm(CpuDevice& device, const BlockInput<T>& in, Tensor<const T> x0, Tensor<const T> mix,
              double eps, double scale, Tensor<T> x, Tensor<T> u, Tensor<T> rstd, Tensor<T> n);
template <class T>
void mix_norm(CudaDevice& device, const BlockInput<T>& in, Tensor<const T> x0,
              Tensor<const Accum<T>> mix, double eps, double scale, Tensor<T> x, Tensor<T> u,
              Tensor<Accum<T>> rstd, Tensor<T> n);

// What mix_norm's backward reads. The input and x0 are needed for the gradients of mix and skip
// alone, and give u again then, so that n is not read; without these the norm is undone from its
// output, and they are not read.
template <class T>
struct MixNormBackward {
  Tensor<const T> dn;           // [T, D]
  Tensor<const T> n;            // [T, D]; with gradients of mix taken for scale·rstd·u
  Tensor<const Accum<T>> rstd;  // [T]
  double scale = 1;
  BlockInput<T> in;
  Tensor<const T> x0;          // [T, D]
  Tensor<const Accum<T>> mix;  // [2, D]
  // [T, D] what else flows into u, x and x_pre; null: nothing.
  Tensor<const T> du, dx, dx_pre;
};

// Where the gradients go. x_pre and k [T, D] are written, the others accumulate, but x0 only from
// its second gradient on.
template <class T>
struct MixNormGradients {
  Tensor<T> x_pre;  // null where x_pre is x0 itself: it joins x0. May be du, dx or dx_pre
  Tensor<T> k;      // null without a skip connection and where k is x_pre itself: it joins that
  Tensor<T> x0;     // [T, D]; may be null: not computed
  Tensor<Accum<T>> mix;   // [2, D]; may be null: not computed
  Tensor<Accum<T>> skip;  // [2, D]; with a skip connection null if and only if mix is
  E4m3Rows x_pre_e4m3{};  // x_pre once more; null: not wanted. For bf16 on CUDA, D a multiple of 8
  bool first_of_x0 = false;  // x0 is written too
};

// With g = du + rstd·(scale·dn − n·mean(dn⊙n)/scale) and d = mix0⊙g + dx, for skip0 = 1 and skip1 =
// 0 without a skip connection:
//   to.x_pre = skip0⊙d + dx_pre,  to.k = skip1⊙d,  to.x0 += mix1⊙g (or = with first_of_x0),
//   to.mix += Σ_t (g⊙x, g⊙x0),  to.skip += Σ_t (d⊙x_pre, d⊙k).
template <class T>
void mix_norm_backward(CpuDevice& device, const MixNormBackward<T>& from,
                       const MixNormGradients<T>& to);
template <class T>
void mix_norm_backward(CudaDevice& device, const MixNormBackward<T>& from,
                       const MixNormGradients<T>& to);

}  // namespace fairway
