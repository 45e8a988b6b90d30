// Compressed text, .xz, .zst and .gz: data/byte_source.h. The last byte of an input says which.
#include <array>

#include "memory_source.h"
#include "reader.h"

using namespace fairway;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  constexpr std::array kNames = {"x.txt.xz", "x.txt.zst", "x.txt.gz"};
  const char* const name = kNames[data[size - 1] % kNames.size()];
  // A window as large as the file asks for within the bound, and what the decoders always take.
  constexpr uint64_t kWindow = 1 << 16;
  constexpr size_t kState = 5 << 18;
  read_within(data, size - 1, {.one = 0, .all = 0, .fixed = kState + kWindow},
              [&](std::span<const std::byte> file) {
                const auto source = decompress(std::make_unique<MemorySource>(file), name, kWindow);
                // A few bytes can stand for gigabytes, which is no fault of the reader.
                std::array<char, 1000> out;
                for (int i = 0; i < 64 && source->read(out) == out.size(); ++i) {
                }
              });
  return 0;
}
