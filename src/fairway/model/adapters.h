// Applying a batch's adapters: nothing happens where there are none. Internal to model/.
#pragma once

#include <type_traits>

#include "fairway/base/accum.h"
#include "fairway/model/lora.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// The pairs of every document for one adapted product of slot s. `out_scale`: see LowRankPairs.
template <class T>
LowRankPairs<T> slot_adapters(const Lora<T>* lora, int s, Adapter kind,
                              const std::remove_const_t<T>* out_scale = nullptr) {
  if (!lora) return {};
  const LowRank<T> first = lora->layout->slot(lora->docs, s, kind);
  return {first.a,  first.b,   lora->stride, lora->count, lora->doc_rows, lora->layout->rank(),
          first.in, first.out, out_scale};
}

// Those of the head, for documents [first, last).
template <class T>
LowRankPairs<T> head_adapters(const Lora<T>* lora, int64_t first, int64_t last) {
  if (!lora) return {};
  const LowRank<T> pair = lora->layout->head(lora->docs + first * lora->stride);
  return {pair.a,
          pair.b,
          lora->stride,
          last - first,
          {lora->doc_head_rows.data + first, {last - first + 1}},
          lora->layout->rank(),
          pair.in,
          pair.out};
}

// y += (x Aᵀ) Bᵀ, document by document.
template <class Device, class T>
void adapt(Device& device, const LowRankPairs<const Accum<T>>& adapters, Tensor<const T> x,
           Tensor<T> y) {
  if (adapters) low_rank<T>(device, x, adapters, y);
}

template <class Device, class T>
void adapt_backward(Device& device, const LowRankPairs<const Accum<T>>& adapters,
                    Tensor<const T> dy, Tensor<const T> x, Tensor<T> dx,
                    const LowRankPairs<Accum<T>>& gradients) {
  if (adapters) low_rank_backward<T>(device, dy, x, adapters, dx, gradients);
}

}  // namespace fairway
