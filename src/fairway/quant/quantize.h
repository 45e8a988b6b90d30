// A float model and its Hessians → the quantized model.
#pragma once

#include <functional>

#include "fairway/comm/process_group.h"
#include "fairway/quant/calibrate.h"
#include "fairway/quant/config.h"
#include "fairway/quant/gptq.h"
#include "fairway/quant/quantized.h"

namespace fairway {

// Tensors of more than keep_float_elements elements go through gptq (matrices only: two extents),
// the others are rounded to float16. `note`, if given, hears of each matrix in the end. Throws
// Error naming the tensor that holds what it cannot.
//
// Collective: the ranks of `group` share the matrices, each with the whole model and all Hessians.
// Rank 0 gets the result, the same bits for any number of ranks and threads, and its notes; the
// others get an empty model.
QuantizedModel quantize_model(
    CpuDevice& device, const ModelConfig& config, const float* flat, const Hessians& hessians,
    const QuantConfig& quant, ProcessGroup& group,
    const std::function<void(const std::string& name, const GptqNotes&)>& note = {});

}  // namespace fairway
