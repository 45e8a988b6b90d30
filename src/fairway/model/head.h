// Scratch of head_loss. Internal to model/.
#pragma once

#include "fairway/model/model.h"

namespace fairway {

template <class T>
struct HeadScratch {
  Tensor<T> logits;     // [rows of a chunk, V]
  Tensor<T> d_head_in;  // [rows of a chunk, D]; null without gradients
  Tensor<T> xa, dxa;    // [rows of a chunk, R] x Aᵀ and its gradient; null without adapters
};

// Rows whose logits exist at one time. On a CPU they should stay in a cache; on a GPU (bf16) there
// must be enough of them to fill it. With adapters, chunks end where documents do.
template <class T>
inline constexpr int64_t kHeadChunk = 1024;
template <>
inline constexpr int64_t kHeadChunk<bf16> = 8192;

template <class T>
HeadScratch<T> take_head_scratch(const ModelConfig& config, int64_t head_rows, bool for_backward,
                                 Arena& arena, const LoraConfig* lora);

}  // namespace fairway
