// Applying a batch's adapters: nothing happens where there are none. Internal to model/.
#pragma once

#include <array>
#include <initializer_list>
#include <type_traits>

#include "fairway/base/accum.h"
#include "fairway/model/lora.h"
#include "fairway/model/lora_copies.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// Adapters of one input, in the order of their columns in xa. attn_in's are one group, or two where
// only some rows are picked to go on.
using AdapterGroup = std::initializer_list<Adapter>;
inline constexpr AdapterGroup kAttnAdapters{Adapter::q, Adapter::k, Adapter::v, Adapter::o};
inline constexpr AdapterGroup kKeyAdapters{Adapter::k, Adapter::v};
inline constexpr AdapterGroup kQueryAdapters{Adapter::q, Adapter::o};
inline constexpr AdapterGroup kMlpAdapters{Adapter::mlp};

// The A of those of `kinds` in slot s that are switched on.
template <class T>
LowRankDown<T> slot_down(const Lora<T>* lora, int s, AdapterGroup kinds) {
  LowRankDown<T> down;
  if (!lora) return down;
  std::array<Adapter, kMaxLowRankGroup> present;
  for (const Adapter kind : kinds)
    if (const LowRank<T> first = lora->layout->slot(lora->docs, s, kind)) {
      present[static_cast<size_t>(down.count)] = kind;
      down.a[static_cast<size_t>(down.count++)] = first.a;
      down.in = first.in;
    }
  down.stride = lora->stride;
  down.docs = lora->count;
  down.doc_rows = lora->doc_rows;
  down.rank = lora->layout->rank();
  down.most_rows = lora->most_rows;
  if (lora->copies && down) {
    down.copies =
        lora->copies->down(lora->copied, s, {present.data(), static_cast<size_t>(down.count)});
    down.copies.row_tiles = lora->row_tiles;
  }
  return down;
}

// The B of adapter `kind` of slot s, which is one of `group`. `out_scale`: see LowRankUp.
template <class T>
LowRankUp<T> slot_up(const Lora<T>* lora, int s, Adapter kind, AdapterGroup group,
                     const std::remove_const_t<T>* out_scale = nullptr) {
  if (!lora) return {};
  const LowRank<T> first = lora->layout->slot(lora->docs, s, kind);
  int place = 0;
  for (const Adapter before : group)
    if (before < kind && lora->layout->slot(lora->docs, s, before)) ++place;
  LowRankUp<T> up{first.b,   lora->stride, lora->count, lora->doc_rows, lora->layout->rank(),
                  first.out, place,        out_scale};
  up.most_rows = lora->most_rows;
  if (lora->copies && up) {
    up.copies = lora->copies->up(lora->copied, s, kind);
    up.copies.row_tiles = lora->row_tiles;
  }
  return up;
}

// The head's adapter, of documents [first, last).
template <class T>
LowRankDown<T> head_down(const Lora<T>* lora, int64_t first, int64_t last) {
  if (!lora) return {};
  const LowRank<T> pair = lora->layout->head(lora->docs + first * lora->stride);
  return {{pair.a},
          1,
          lora->stride,
          last - first,
          {lora->doc_head_rows.data + first, {last - first + 1}},
          lora->layout->rank(),
          pair.in};
}
template <class T>
LowRankUp<T> head_up(const Lora<T>* lora, int64_t first, int64_t last) {
  if (!lora) return {};
  const LowRank<T> pair = lora->layout->head(lora->docs + first * lora->stride);
  return {pair.b,
          lora->stride,
          last - first,
          {lora->doc_head_rows.data + first, {last - first + 1}},
          lora->layout->rank(),
          pair.out};
}

// xa = x Aᵀ, and y += xa Bᵀ, document by document.
template <class Device, class T>
void adapt_down(Device& device, const LowRankDown<const Accum<T>>& down, Tensor<const T> x,
                Tensor<T> xa) {
  if (!down) return;
  check(xa && xa.extent(1) == down.width(), "adapters: activations laid out for others");
  low_rank_down<T>(device, x, down, xa);
}
template <class Device, class T>
void adapt_up(Device& device, const LowRankUp<const Accum<T>>& up, Tensor<const T> xa,
              Tensor<T> y) {
  if (up) low_rank_up<T>(device, xa, up, y);
}

// From dy, the columns of dxa that are this adapter's; from all of dxa, dx += . The adapters'
// gradients are written where there is a place for them.
template <class Device, class T>
void adapt_up_backward(Device& device, const LowRankUp<const Accum<T>>& up, Tensor<const T> dy,
                       Tensor<const T> xa, Tensor<T> dxa, const LowRankUp<T>& gradient) {
  if (!up) return;
  check(!gradient || gradient.stride == up.stride, "adapters: gradients of another stride");
  low_rank_up_backward<T>(device, dy, xa, up, dxa, gradient.b);
}
// The same for several adapters of one input; those that are switched off are passed over.
template <class T>
LowRankUpBackward<T> adapted_up(const LowRankUp<const Accum<T>>& up, Tensor<const T> dy,
                                const LowRankUp<T>& gradient) {
  check(!gradient || gradient.stride == up.stride, "adapters: gradients of another stride");
  return {up, dy, gradient.b};
}
template <class Device, class T>
void adapt_ups_backward(Device& device, std::initializer_list<LowRankUpBackward<T>> ups,
                        Tensor<const T> xa, Tensor<T> dxa) {
  std::array<LowRankUpBackward<T>, kMaxLowRankGroup> present;
  size_t count = 0;
  for (const auto& one : ups)
    if (one.up) present[count++] = one;
  low_rank_ups_backward<T>(device, {present.data(), count}, xa, dxa);
}
template <class Device, class T>
void adapt_down_backward(Device& device, const LowRankDown<const Accum<T>>& down,
                         Tensor<const T> dxa, Tensor<const T> x, Tensor<T> dx,
                         const LowRankDown<T>& gradient) {
  if (down) low_rank_down_backward<T>(device, dxa, x, down, dx, gradient);
}
// The adapters' gradients alone, where the op of the linear map has added to dx.
template <class Device, class T>
void adapt_down_gradient(Device& device, const LowRankDown<const Accum<T>>& down,
                         Tensor<const T> dxa, Tensor<const T> x, const LowRankDown<T>& gradient) {
  if (gradient) adapt_down_backward<Device, T>(device, down, dxa, x, {}, gradient);
}

}  // namespace fairway
