// Mutations that leave a safetensors file its frame, so that what is inside is reached.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

// libFuzzer's own mutations.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace fairway {

// Mutates the header or the data, and states the header's new length. Now and then the whole file
// is mutated as bytes, and so is what has no frame.
inline size_t mutate_safetensors(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  uint64_t header = 0;
  if (size >= 8) std::memcpy(&header, data, 8);
  if (seed % 16 == 0 || size < 8 || header > size - 8)
    return LLVMFuzzerMutate(data, size, max_size);
  std::vector<uint8_t> text(data + 8, data + 8 + header), values(data + 8 + header, data + size);
  auto& part = seed % 4 == 1 ? values : text;
  const size_t before = part.size(), other = size - before;
  if (other >= max_size) return LLVMFuzzerMutate(data, size, max_size);
  const size_t room = max_size - other;
  part.resize(room);
  part.resize(LLVMFuzzerMutate(part.data(), before, room));
  // A changed length of the data would only be noticed.
  if (&part == &values && seed % 32 != 1) part.resize(std::min(before, room));
  header = text.size();
  std::memcpy(data, &header, 8);
  std::copy(text.begin(), text.end(), data + 8);
  std::copy(values.begin(), values.end(), data + 8 + text.size());
  return 8 + text.size() + values.size();
}

}  // namespace fairway
