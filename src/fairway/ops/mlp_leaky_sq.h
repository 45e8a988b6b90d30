// The MLP with its fused activation: m = f(n Wupᵀ) Wdownᵀ, f(z) = (z if z>0 else z/2)².
// f'(z) = 2z if z>0 else z/2. Legend: T rows, D model width, F hidden width.
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// n [T, D], wup [F, D], wdown [D, F] → z [T, F] (null: not kept), m [T, D].
template <class T>
void mlp_leaky_sq(CpuDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<T> z, Tensor<T> m);
template <class T>
void mlp_leaky_sq(CudaDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<T> z, Tensor<T> m);

// From dm [T, D] and the saved z:  dn = dz Wup, or += with `accumulate_dn`.
// dwup, dwdown accumulate; null for test-time training. hidden, dz: [T, F] scratch, needed with
// them.
template <class T>
void mlp_leaky_sq_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           Tensor<const T> z, Tensor<const T> wup, Tensor<const T> wdown,
                           bool accumulate_dn, Tensor<T> dn, Tensor<T> dwup, Tensor<T> dwdown,
                           Tensor<T> hidden, Tensor<T> dz);
template <class T>
void mlp_leaky_sq_backward(CudaDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           Tensor<const T> z, Tensor<const T> wup, Tensor<const T> wdown,
                           bool accumulate_dn, Tensor<T> dn, Tensor<Accum<T>> dwup,
                           Tensor<Accum<T>> dwdown, Tensor<T> hidden, Tensor<T> dz);

// f(z), elementwise: the input of Wdown.
template <class T>
void leaky_sq(CpuDevice& device, Tensor<const T> z, Tensor<T> f);
template <class T>
void leaky_sq(CudaDevice& device, Tensor<const T> z, Tensor<T> f);

}  // namespace fairway
