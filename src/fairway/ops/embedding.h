// The embedding and its norm: x0[t] = rms(E[token_t]).
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// tokens [T] (each < V), table E [V, D] → rstd [T], x0 [T, D].
template <class T>
void embed(CpuDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table, double eps,
           Tensor<T> rstd, Tensor<T> x0);
template <class T>
void embed(CudaDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table, double eps,
           Tensor<Accum<T>> rstd, Tensor<T> x0);

// dE[token_t] += d rms(E[token_t]); rows of one token are added in order of t.
template <class T>
void embed_backward(CpuDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table,
                    Tensor<const T> rstd, Tensor<const T> dx0, Tensor<T> dtable);
template <class T>
void embed_backward(CudaDevice& device, Tensor<const int32_t> tokens, Tensor<const T> table,
                    Tensor<const Accum<T>> rstd, Tensor<const T> dx0, Tensor<Accum<T>> dtable);

}  // namespace fairway
