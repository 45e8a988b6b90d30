// Mutations of a protocol buffer that leave its lengths right.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

// libFuzzer's own mutations.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace fairway {

inline void put_varint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  out += static_cast<char>(value);
}

// The fields of a message, each with its tag; nothing if it is none.
struct ProtobufField {
  uint64_t tag;
  std::string value;  // of text and messages without the length
  bool has_length() const { return (tag & 7) == 2; }
};
inline std::vector<ProtobufField> protobuf_fields(std::string_view rest) {
  std::vector<ProtobufField> fields;
  const auto varint = [&](uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest.front());
      rest.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 128) return true;
    }
    return false;
  };
  while (!rest.empty()) {
    ProtobufField f{};
    uint64_t length = 0;
    if (!varint(f.tag)) return {};
    const auto wire = f.tag & 7;
    if (wire == 0) {
      const std::string_view before = rest;
      if (!varint(length)) return {};
      f.value = before.substr(0, before.size() - rest.size());
    } else {
      if (wire == 2 && !varint(length)) return {};
      if (wire != 2) length = wire == 5 ? 4 : wire == 1 ? 8 : UINT64_MAX;
      if (length > rest.size()) return {};
      f.value = rest.substr(0, length);
      rest.remove_prefix(length);
    }
    fields.push_back(std::move(f));
  }
  return fields;
}

inline std::string protobuf_of(const std::vector<ProtobufField>& fields) {
  std::string out;
  for (const ProtobufField& f : fields) {
    put_varint(out, f.tag);
    if (f.has_length()) put_varint(out, f.value.size());
    out += f.value;
  }
  return out;
}

inline std::string mutated(std::string bytes, size_t room) {
  const size_t before = bytes.size();
  bytes.resize(std::max(before, room));
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(bytes.data()), before, bytes.size()));
  return bytes;
}

// Repeats, drops or moves a field, or mutates its value; messages are mutated within.
inline std::string mutate_message(const std::string& message, size_t room, unsigned& seed,
                                  int depth) {
  const auto below = [&](size_t n) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
  };
  auto fields = protobuf_fields(message);
  if (depth == 0 || fields.empty() || below(16) == 0) return mutated(message, room);
  const size_t at = below(fields.size());
  switch (below(8)) {
    case 0:
      fields.insert(fields.begin() + static_cast<std::ptrdiff_t>(below(fields.size())), fields[at]);
      break;
    case 1:
      fields.erase(fields.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 2:
      std::swap(fields[at], fields[below(fields.size())]);
      break;
    default:
      fields[at].value =
          fields[at].has_length()
              ? mutate_message(fields[at].value, fields[at].value.size() + 16, seed, depth - 1)
              : mutated(fields[at].value, fields[at].value.size());
  }
  return protobuf_of(fields);
}

inline size_t mutate_protobuf(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  const std::string out =
      mutate_message({reinterpret_cast<const char*>(data), size}, max_size, seed, 3);
  const size_t length = std::min(out.size(), max_size);
  std::memcpy(data, out.data(), length);
  return length;
}

}  // namespace fairway
