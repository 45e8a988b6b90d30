// Artifacts: quant/artifact.h, and their weights as float32 (quant/quantized.h).
#include "fairway/quant/artifact.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // docs/formats.md, "Artifact": a byte may stand for 64 numbers.
  read_within(
      data, size, {.one = 128, .all = 768, .fixed = 1 << 18},
      [](std::span<const std::byte> file) { dequantize(unpack_artifact(file, "x.fairway")); });
  return 0;
}

// libFuzzer's own mutations.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// Mutates one section and makes sizes and checksums right again.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  constexpr size_t kSections = 5, kHeader = 16 + 16 * kSections, kTrailer = 8;
  std::array<std::vector<uint8_t>, kSections> sections;
  if (seed % 16 == 0 || size < kHeader + kTrailer || max_size < kHeader + kTrailer)
    return LLVMFuzzerMutate(data, size, max_size);
  size_t at = kHeader;
  for (size_t s = 0; s < kSections; ++s) {
    uint64_t length = 0;
    std::memcpy(&length, data + 16 + 16 * s, 8);
    if (length > size - kTrailer - at) return LLVMFuzzerMutate(data, size, max_size);
    sections[s].assign(data + at, data + at + length);
    at += length;
  }
  const size_t chosen = seed / 16 % kSections;
  auto& part = sections[chosen];
  const size_t before = part.size();
  if (at + kTrailer >= max_size + before) return LLVMFuzzerMutate(data, size, max_size);
  const size_t room = max_size - (at + kTrailer - before);
  part.resize(room);
  part.resize(LLVMFuzzerMutate(part.data(), before, room));
  // Streams of another length than the tensor table says would only be noticed.
  if (chosen > 1 && seed / 128 % 8 != 0) part.resize(std::min(before, room));
  at = kHeader;
  for (size_t s = 0; s < kSections; ++s) {
    const uint64_t length = sections[s].size(), sum = XXH3_64bits(sections[s].data(), length);
    std::memcpy(data + 16 + 16 * s, &length, 8);
    std::memcpy(data + 24 + 16 * s, &sum, 8);
    std::copy(sections[s].begin(), sections[s].end(), data + at);
    at += length;
  }
  const uint64_t sum = XXH3_64bits(data, at);
  std::memcpy(data + at, &sum, 8);
  return at + kTrailer;
}
