// Softcap and cross-entropy of rows of logits: l = c·tanh(z/c), nll = log Σ e^l − l[target].
#pragma once

#include <cstdint>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// z [N, V] raw products. nll [N]. With `d_nll` [N] (each row's weight in the loss; null: none), z
// is replaced by its gradient: d_nll·(softmax(l) − 1[target])·(1 − tanh²(z/c)). Without, z becomes
// l.
template <class T>
void softcap_xent(CpuDevice& device, Tensor<T> z, Tensor<const int32_t> targets, double cap,
                  const T* d_nll, Tensor<T> nll);
template <class T>
void softcap_xent(CudaDevice& device, Tensor<T> z, Tensor<const int32_t> targets, double cap,
                  const Accum<T>* d_nll, Tensor<Accum<T>> nll);

}  // namespace fairway
