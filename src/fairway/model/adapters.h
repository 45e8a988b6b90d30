// Applying a batch's adapters: nothing happens where there are none. Internal to model/.
#pragma once

#include <vector>

#include "fairway/model/lora.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

// The pairs of every document for one adapted product.
template <class T>
class Adapters {
 public:
  Adapters() = default;
  // Slot s of the route.
  Adapters(const Lora<T>* lora, int s, Adapter kind) {
    if (lora)
      collect(lora->docs, lora->doc_rows, lora->layout->rank(),
              [&](T* doc) { return lora->layout->slot(doc, s, kind); });
  }
  // The head, for documents [first, last): rows counted from the first one's.
  static Adapters head(const Lora<T>* lora, size_t first, size_t last) {
    Adapters out;
    if (lora) {
      out.rows_.assign(lora->doc_head_rows.begin() + static_cast<std::ptrdiff_t>(first),
                       lora->doc_head_rows.begin() + static_cast<std::ptrdiff_t>(last + 1));
      const int32_t start = out.rows_.front();
      for (int32_t& row : out.rows_) row -= start;
      out.collect({lora->docs.begin() + static_cast<std::ptrdiff_t>(first),
                   lora->docs.begin() + static_cast<std::ptrdiff_t>(last)},
                  out.rows_, lora->layout->rank(), [&](T* doc) { return lora->layout->head(doc); });
    }
    return out;
  }

  bool empty() const { return a_.empty(); }
  LowRankPairs<T> pairs() const { return {a_, b_, rows_span(), rank_, in_, out_}; }

 private:
  template <class F>
  void collect(const std::vector<T*>& docs, std::span<const int32_t> rows, int rank, F&& view) {
    for (T* doc : docs) {
      const LowRank<T> pair = view(doc);
      if (!pair) return;  // this kind of adapter is switched off
      a_.push_back(pair.a);
      b_.push_back(pair.b);
      in_ = pair.in;
      out_ = pair.out;
    }
    rank_ = rank;
    doc_rows_ = rows;
  }
  std::span<const int32_t> rows_span() const {
    return rows_.empty() ? doc_rows_ : std::span<const int32_t>(rows_);
  }

  std::vector<T*> a_, b_;
  std::vector<int32_t> rows_;          // the head's own row offsets
  std::span<const int32_t> doc_rows_;  // or the batch's
  int64_t rank_ = 0, in_ = 0, out_ = 0;
};

// y += (x Aᵀ) Bᵀ, document by document.
template <class Device, class T>
void adapt(Device& device, const Adapters<const T>& adapters, Tensor<const T> x, Tensor<T> y) {
  if (!adapters.empty()) low_rank<T>(device, x, adapters.pairs(), y);
}

template <class Device, class T>
void adapt_backward(Device& device, const Adapters<const T>& adapters, Tensor<const T> dy,
                    Tensor<const T> x, Tensor<T> dx, const Adapters<T>& gradients) {
  if (!adapters.empty())
    low_rank_backward<T>(device, dy, x, adapters.pairs(), dx, gradients.pairs());
}

}  // namespace fairway
