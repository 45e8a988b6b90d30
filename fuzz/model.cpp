// Models as safetensors files: io/safetensors.h, load_model of model/weights.h, quant/model_file.h.
#include "fairway/quant/model_file.h"
#include "reader.h"
#include "safetensors_mutator.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The tree of the JSON header, and weights of four bytes for two.
  read_within(data, size, {.one = 16, .all = 48, .fixed = 16384},
              [](std::span<const std::byte> file) { load_any_model(file, "x.safetensors"); });
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return mutate_safetensors(data, size, max_size, seed);
}
