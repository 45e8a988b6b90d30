// What a general-purpose compressor makes of codes: the published record's Brotli, for comparison.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fairway/quant/quantized.h"

namespace fairway {

// Bytes after Brotli at quality 11 with its largest standard window (16 MB).
uint64_t brotli11_bytes(std::span<const std::byte> data);

// Every `stride`-th byte from 0 on, then from 1 on, …: the record's grouping of bytes into planes.
std::vector<std::byte> byte_planes(std::span<const std::byte> data, int stride);

// The codes of all matrices, one after the other, a byte each.
std::vector<std::byte> all_codes(const QuantizedModel& model);

struct BrotliComparison {
  uint64_t codes = 0;         // of all codes as bytes
  uint64_t codes_planes = 0;  // of the same in the record's two byte planes
};
BrotliComparison compare_with_brotli(const QuantizedModel& model);

}  // namespace fairway
