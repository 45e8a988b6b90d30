// Checkpoints: train/checkpoint.h.
#include "fairway/train/checkpoint.h"

#include <xxhash.h>

#include <string>

#include "reader.h"
#include "safetensors_mutator.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read_within(data, size, {.one = 16, .all = 48, .fixed = 16384},
              [](std::span<const std::byte> file) {
                const SafetensorsFile tensors(file, "x.safetensors");
                const CheckpointInfo info = read_checkpoint_info(tensors);
                double sum = 0;
                load_checkpoint(tensors, info.identity, {{"weights", 3}, {"ema", 2}},
                                [&](const std::string&, std::span<const float> values) {
                                  for (const float v : values) sum += v;
                                });
              });
  return 0;
}

namespace {

// Makes the checksum of a checkpoint right again: train/checkpoint.cpp.
void state_checksum(uint8_t* data, size_t size) try {
  const SafetensorsFile file(std::as_bytes(std::span(data, size)), "x");
  std::string summed;
  const auto add = [&](std::string_view text) {
    const uint64_t length = text.size();
    summed.append(reinterpret_cast<const char*>(&length), sizeof length);
    summed += text;
  };
  for (const auto& [key, value] : file.metadata())
    if (key != "checksum") add(key), add(value);
  for (const auto& [name, entry] : file.entries()) add(name), add(as_text(entry.bytes));
  const std::string_view key = "\"checksum\":\"";
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t at = text.find(key);
  if (at == text.npos || size - at < key.size() + 16) return;
  const auto hex = fmt::format("{:016x}", XXH3_64bits(summed.data(), summed.size()));
  std::copy(hex.begin(), hex.end(), data + at + key.size());
} catch (const Error&) {  // nothing to make right
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  size = mutate_safetensors(data, size, max_size, seed);
  if (seed % 64 != 2) state_checksum(data, size);
  return size;
}
