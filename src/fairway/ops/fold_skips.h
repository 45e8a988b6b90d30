// Skip connections as two vectors each: where one ends, x = g⊙x_pre + (1−g)⊙(w⊙k), g = σ(gate), or
// without gates x = x_pre + w⊙k. That is skip0⊙x_pre + skip1⊙k, which is what passes over rows read
// (ops/mix_norm.h). w, gate [S, D], the latter null without gates; skip [S, 2, D].
#pragma once

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

// skip[s] = (g, (1−g)⊙w), or (1, w).
template <class T>
void fold_skips(CpuDevice& device, Tensor<const T> w, Tensor<const T> gate, Tensor<T> skip);
template <class T>
void fold_skips(CudaDevice& device, Tensor<const Accum<T>> w, Tensor<const Accum<T>> gate,
                Tensor<Accum<T>> skip);

// dw += (1−g)⊙dskip1, dgate += g⊙(1−g)⊙(dskip0 − w⊙dskip1). dgate is null without gates.
template <class T>
void fold_skips_backward(CpuDevice& device, Tensor<const T> dskip, Tensor<const T> w,
                         Tensor<const T> gate, Tensor<T> dw, Tensor<T> dgate);
template <class T>
void fold_skips_backward(CudaDevice& device, Tensor<const Accum<T>> dskip, Tensor<const Accum<T>> w,
                         Tensor<const Accum<T>> gate, Tensor<Accum<T>> dw, Tensor<Accum<T>> dgate);

}  // namespace fairway
