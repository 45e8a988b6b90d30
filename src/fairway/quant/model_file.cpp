#include "fairway/quant/model_file.h"

#include <string>

#include "fairway/io/mapped_file.h"
#include "fairway/io/safetensors.h"
#include "fairway/quant/artifact.h"

namespace fairway {

ModelFile load_any_model(const std::filesystem::path& path) {
  return load_any_model(MappedFile(path).bytes(), path);
}

ModelFile load_any_model(std::span<const std::byte> file, const std::filesystem::path& path) {
  ModelFile model;
  if (looks_like_artifact(file)) {
    const QuantizedModel quantized = unpack_artifact(file, path.string());
    model.config = quantized.config;
    model.tokenizer_hash = quantized.tokenizer_hash;
    model.flat = dequantize(quantized);
    return model;
  }
  const SafetensorsFile tensors(file, path);
  static_cast<LoadedModel&>(model) = load_model(tensors);
  if (const auto it = tensors.metadata().find("tokenizer_hash"); it != tensors.metadata().end()) {
    const std::string& hex = it->second;
    require(hex.size() == 16 && hex.find_first_not_of("0123456789abcdef") == std::string::npos,
            "{}: metadata 'tokenizer_hash' is not 16 hexadecimal digits", path.string());
    model.tokenizer_hash = std::stoull(hex, nullptr, 16);
  }
  return model;
}

}  // namespace fairway
