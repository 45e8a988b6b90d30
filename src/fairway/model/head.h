// Scratch of head_loss. Internal to model/.
#pragma once

#include "fairway/model/model.h"

namespace fairway {

template <class T>
struct HeadScratch {
  Tensor<T> logits;     // [rows of a chunk, V]
  Tensor<T> d_head_in;  // [rows of a chunk, D]; null without gradients
};

// `lora`: chunks end where documents do, so one may hold as many rows as the largest document plus
// kHeadChunk; null: kHeadChunk.
inline constexpr int64_t kHeadChunk = 1024;

template <class T>
HeadScratch<T> take_head_scratch(const ModelConfig& config, int64_t head_rows, bool for_backward,
                                 Arena& arena);

}  // namespace fairway
