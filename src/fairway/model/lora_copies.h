// Where a document's adapters lie once more in bf16, as products read them (ops/adapter_copies.h):
// for each slot A of q, k, v and o below each other and transposed, A of the MLP both ways, B of
// q, k and v below each other, B of o and of the MLP with the scale of their outputs. One flat
// buffer a document, beside the one of LoraLayout. The head's adapter has no copies.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "fairway/model/lora.h"
#include "fairway/model/route.h"
#include "fairway/ops/adapter_copies.h"
#include "fairway/ops/low_rank.h"

namespace fairway {

class LoraCopies {
 public:
  // The scales, [L, D] of each layer, lie in device memory and must outlive it.
  LoraCopies(const LoraLayout& layout, const Route& route, Tensor<const float> attn_scale,
             Tensor<const float> mlp_scale);

  // Whether ranks and widths are such that there can be copies.
  static bool fit(const LoraLayout& layout);

  // Elements from one document's buffer to the next one's.
  int64_t stride() const { return stride_; }
  // All matrices of a document's adapters, the head's too.
  std::span<const AdapterMatrix> matrices() const { return matrices_; }

  // The copies of `kinds`, all of which are switched on, and of B; nulls where they do not lie
  // together. `docs`: the first document's buffer.
  LowRankCopies down(const bf16* docs, int s, std::span<const Adapter> kinds) const;
  LowRankCopies up(const bf16* docs, int s, Adapter kind) const;

 private:
  struct Place {
    int64_t a = -1, transposed = -1, pitch = 0, b = -1;
  };
  const Place& place(int s, Adapter kind) const {
    return place_[static_cast<size_t>(s * kAdapters + static_cast<int>(kind))];
  }
  int64_t rank_, in_, stride_ = 0;
  std::vector<Place> place_;
  std::vector<AdapterMatrix> matrices_;
};

}  // namespace fairway
