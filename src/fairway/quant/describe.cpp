#include "fairway/quant/describe.h"

#include <fmt/format.h>

#include "fairway/model/weights.h"
#include "fairway/quant/artifact.h"

namespace fairway {

std::string describe_artifact(const std::filesystem::path& path) {
  const QuantizedModel model = read_artifact(path);
  std::string out = fmt::format("{}: Fairway artifact, {} bytes, {} parameters\n", path.string(),
                                std::filesystem::file_size(path), num_params(model.config));
  out += model.tokenizer_hash ? fmt::format("tokenizer {:016x}\n", *model.tokenizer_hash)
                              : std::string("tokenizer not recorded\n");
  out += fmt::format("model {}\n", to_json(model.config));
  for (const StoredTensor& t : model.tensors) {
    std::string shape;
    for (int i = 0; i < t.shape.rank; ++i) shape += fmt::format("{}{}", i ? " x " : "", t.shape[i]);
    out += fmt::format("  {:<32} {:<14} {}\n", t.name, shape,
                       t.quantized() ? fmt::format("{} bits", t.matrix.bits) : "float16");
  }
  return out;
}

}  // namespace fairway
