// The entropy coder of binary16 numbers: row scales and the small tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fairway {

// One tensor's numbers. Series of one `kind` ("attn_scale", "attn.c_q.weight") resemble one
// another: what was learnt from one begins the next.
struct HalfSeries {
  std::string kind;
  std::span<uint16_t> values;
};

// All series in one stream. `bits`, if given, receives the cost of each.
std::vector<std::byte> encode_halves(std::span<const HalfSeries> series,
                                     std::vector<double>* bits = nullptr);

// Fills the values; kinds and sizes must be the encoder's. Any bytes decode to something.
void decode_halves(std::span<const std::byte> bytes, std::span<const HalfSeries> series);

}  // namespace fairway
