#include "fairway/quant/brotli_yardstick.h"

#include <brotli/encode.h>

#include <array>

namespace fairway {

uint64_t brotli11_bytes(std::span<const std::byte> data) {
  size_t size = BrotliEncoderMaxCompressedSize(data.size());
  std::vector<uint8_t> out(size + 1);
  size = out.size();
  const bool ok = BrotliEncoderCompress(
      BROTLI_MAX_QUALITY, BROTLI_MAX_WINDOW_BITS, BROTLI_MODE_GENERIC, data.size(),
      reinterpret_cast<const uint8_t*>(data.data()), &size, out.data());
  require(ok, "Brotli could not compress {} bytes", data.size());
  return size;
}

std::vector<std::byte> byte_planes(std::span<const std::byte> data, int stride) {
  std::vector<std::byte> out;
  out.reserve(data.size());
  for (size_t plane = 0; plane < static_cast<size_t>(stride); ++plane)
    for (size_t i = plane; i < data.size(); i += static_cast<size_t>(stride))
      out.push_back(data[i]);
  return out;
}

std::vector<std::byte> all_codes(const QuantizedModel& model) {
  std::vector<std::byte> codes;
  for (const StoredTensor& t : model.tensors) {
    const auto bytes = std::as_bytes(std::span(t.matrix.codes));
    codes.insert(codes.end(), bytes.begin(), bytes.end());
  }
  return codes;
}

BrotliComparison compare_with_brotli(const QuantizedModel& model) {
  const std::vector<std::byte> codes = all_codes(model);
  const std::array<std::vector<std::byte>, 2> inputs = {codes, byte_planes(codes, 2)};
  std::array<uint64_t, 2> sizes{};
#pragma omp parallel for num_threads(2) schedule(static, 1)
  for (size_t i = 0; i < 2; ++i) sizes[i] = brotli11_bytes(inputs[i]);
  return {sizes[0], sizes[1]};
}

}  // namespace fairway
