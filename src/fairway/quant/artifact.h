// The artifact, `.fairway`: everything evaluation needs of a model, in docs/formats.md's container.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "fairway/quant/quantized.h"

namespace fairway {

// Bytes of the artifact by tensor, in the order stored.
struct TensorBytes {
  std::string name;
  uint64_t codes = 0, scales = 0, half = 0;  // compressed
  double model_bits = 0;                     // −Σ log2 p of the codes under the coder's model
};
struct ArtifactBytes {
  std::vector<TensorBytes> tensors;
  uint64_t container = 0;  // everything else: header, configuration, table, checksums
  uint64_t total = 0;
};

// The file's bytes. `bytes`, if given, learns where they went.
std::vector<std::byte> pack_artifact(const QuantizedModel& model, ArtifactBytes* bytes = nullptr);

// Reads bytes from strangers: nothing is allocated before its size follows from a checked
// configuration, every flipped byte is an Error. `where` (a path) begins the messages.
QuantizedModel unpack_artifact(std::span<const std::byte> file, const std::string& where);

void write_artifact(const std::filesystem::path& path, const QuantizedModel& model,
                    ArtifactBytes* bytes = nullptr);
QuantizedModel read_artifact(const std::filesystem::path& path);

}  // namespace fairway
