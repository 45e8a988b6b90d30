// Low-rank products beside a linear map: y += (x Aᵀ) Bᵀ, one pair (A [R, in], B [out, R]) a
// document. Documents own consecutive rows; a document's result does not depend on its neighbours.
#pragma once

#include <cstdint>
#include <span>

#include "fairway/base/tensor.h"
#include "fairway/device/device.h"

namespace fairway {

template <class T>
struct LowRankPairs {
  std::span<T*const> a, b;            // one pointer a document
  std::span<const int32_t> doc_rows;  // [docs + 1]
  int64_t rank, in, out;
};

// x [T, in], y [T, out] += .
template <class T>
void low_rank(CpuDevice& device, Tensor<const T> x, const LowRankPairs<const T>& pairs,
              Tensor<T> y);

// dx [T, in] += dy B A;  for each document dB += dyᵀ (x Aᵀ), dA += (dy B)ᵀ x.
// dx may be null (the input needs no gradient), dpairs.a empty (the adapters need none).
template <class T>
void low_rank_backward(CpuDevice& device, Tensor<const T> dy, Tensor<const T> x,
                       const LowRankPairs<const T>& pairs, Tensor<T> dx,
                       const LowRankPairs<T>& dpairs);

}  // namespace fairway
