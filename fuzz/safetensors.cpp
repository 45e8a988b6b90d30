// The safetensors container: io/safetensors.h.
#include "fairway/io/safetensors.h"

#include "reader.h"
#include "safetensors_mutator.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The tree of the JSON header; SafetensorsFile refuses headers of more than 4 MiB.
  read_within(data, size, {.one = 16, .all = 48, .fixed = 8192},
              [](std::span<const std::byte> bytes) {
                const SafetensorsFile file(bytes, "x.safetensors");
                size_t sum = 0;
                for (const auto& [name, entry] : file.entries())
                  for (const std::byte b : entry.bytes) sum += static_cast<size_t>(b);
                check(file.contains("") || sum < SIZE_MAX, "the bytes of every tensor can be read");
              });
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return mutate_safetensors(data, size, max_size, seed);
}
