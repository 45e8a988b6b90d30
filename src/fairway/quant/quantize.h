// A float model and its Hessians → the quantized model.
#pragma once

#include <functional>

#include "fairway/quant/calibrate.h"
#include "fairway/quant/config.h"
#include "fairway/quant/gptq.h"
#include "fairway/quant/quantized.h"

namespace fairway {

// Tensors of more than keep_float_elements elements go through gptq (matrices only: two extents),
// the others are rounded to float16. `note`, if given, hears of each matrix in the end. Throws
// Error naming the tensor that holds what it cannot.
QuantizedModel quantize_model(
    CpuDevice& device, const ModelConfig& config, const float* flat, const Hessians& hessians,
    const QuantConfig& quant,
    const std::function<void(const std::string& name, const GptqNotes&)>& note = {});

}  // namespace fairway
