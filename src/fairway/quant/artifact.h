// The artifact, `.fairway`: everything evaluation needs of a model, in docs/formats.md's container.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "fairway/quant/quantized.h"

namespace fairway {

// Where the bytes of an artifact went, by tensor in the order stored. Scales (and float16 tensors)
// of all tensors share one stream; each tensor's part of it is its share of the stream's bits.
struct TensorBytes {
  std::string name;
  int bits = 0;  // of its codes; 0: float16
  int64_t elements = 0;
  uint64_t codes = 0, scales = 0, half = 0;
  double model_bits = 0;  // −Σ log2 p of the codes under the coder's model, in double
};
struct ArtifactBytes {
  std::vector<TensorBytes> tensors;
  uint64_t container = 0;  // header, configuration, tensor table, checksums
  uint64_t total = 0;
};

// The file's bytes. Throws Error if a tensor holds a number that is not finite.
std::vector<std::byte> pack_artifact(const QuantizedModel& model, ArtifactBytes* bytes = nullptr);

// Reads bytes from strangers: nothing is allocated before its size follows from a checked
// configuration that is itself bounded by the file's size; a damaged byte anywhere is an Error.
// `where` (a path) begins the messages.
QuantizedModel unpack_artifact(std::span<const std::byte> file, const std::string& where);

// Does the file begin like an artifact?
bool looks_like_artifact(std::span<const std::byte> file);

void write_artifact(const std::filesystem::path& path, const QuantizedModel& model,
                    ArtifactBytes* bytes = nullptr);
QuantizedModel read_artifact(const std::filesystem::path& path);

}  // namespace fairway
