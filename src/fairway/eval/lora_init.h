// The adapters a document starts with: A from the seed or from a file, B zero.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "fairway/device/cpu_device.h"
#include "fairway/model/lora.h"

namespace fairway {

// A uniform in ±1/sqrt(in), a pure function of (seed, document, place in the layout); B zero.
// Writes all layout.size() elements of `doc`.
void init_lora(CpuDevice& device, const LoraLayout& layout, uint64_t seed, uint64_t document,
               float* doc);
void init_lora(CudaDevice& device, const LoraLayout& layout, uint64_t seed, uint64_t document,
               float* doc);

// One document's buffer with A from the tensors "ttt.init.{adapter}.A" of a safetensors file.
// Throws Error if one is missing or misshapen.
std::vector<float> read_lora_init(const std::filesystem::path& path, const LoraLayout& layout);

}  // namespace fairway
