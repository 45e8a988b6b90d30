// Low-rank products beside a linear map: y += out_scale⊙((x Aᵀ) Bᵀ), one pair (A [R, in], B [out,
// R]) a document. Documents own consecutive rows; a document's result does not depend on its
// neighbours.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

template <class T>
struct LowRankPairs {
  T* a = nullptr;      // of the first document; null: there are no adapters
  T* b = nullptr;      //
  int64_t stride = 0;  // elements from a document's A (or B) to the next one's
  int64_t docs = 0;
  Tensor<const int32_t> doc_rows;  // [docs + 1], device memory; rows count from doc_rows[0]
  int64_t rank = 0, in = 0, out = 0;
  // [out], device memory, the same for all documents: a scale that the linear map has folded into
  // its matrix. Null: 1.
  const std::remove_const_t<T>* out_scale = nullptr;

  explicit operator bool() const { return a != nullptr; }
};

// x [T, in], y [T, out] += .
template <class T>
void low_rank(CpuDevice& device, Tensor<const T> x, const LowRankPairs<const T>& pairs,
              Tensor<T> y);
template <class T>
void low_rank(CudaDevice& device, Tensor<const T> x, const LowRankPairs<const Accum<T>>& pairs,
              Tensor<T> y);

// With g = out_scale⊙dy:  dx [T, in] += g B A;  for each document dB += gᵀ (x Aᵀ), dA += (g B)ᵀ x.
// dx may be null (the input needs no gradient), dpairs null (the adapters need none).
template <class T>
void low_rank_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> x,
                       const LowRankPairs<const T>& pairs, Tensor<T> dx,
                       const LowRankPairs<T>& dpairs);
template <class T>
void low_rank_backward(CudaDevice& device, Tensor<const T> dy, Tensor<const T> x,
                       const LowRankPairs<const Accum<T>>& pairs, Tensor<T> dx,
                       const LowRankPairs<Accum<T>>& dpairs);

}  // namespace fairway
