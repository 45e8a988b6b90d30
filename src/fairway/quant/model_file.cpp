#include "fairway/quant/model_file.h"

#include <string>

#include "fairway/io/mapped_file.h"
#include "fairway/io/safetensors.h"
#include "fairway/quant/artifact.h"

namespace fairway {

ModelFile load_any_model(const std::filesystem::path& path) {
  ModelFile model;
  const MappedFile file(path);
  if (looks_like_artifact(file.bytes())) {
    const QuantizedModel quantized = unpack_artifact(file.bytes(), path.string());
    model.config = quantized.config;
    model.tokenizer_hash = quantized.tokenizer_hash;
    model.flat = dequantize(quantized);
    return model;
  }
  static_cast<LoadedModel&>(model) = load_model(path);
  const SafetensorsFile tensors(path);
  if (const auto it = tensors.metadata().find("tokenizer_hash"); it != tensors.metadata().end()) {
    const std::string& hex = it->second;
    require(hex.size() == 16 && hex.find_first_not_of("0123456789abcdef") == std::string::npos,
            "{}: metadata 'tokenizer_hash' is not 16 hexadecimal digits", path.string());
    model.tokenizer_hash = std::stoull(hex, nullptr, 16);
  }
  return model;
}

}  // namespace fairway
