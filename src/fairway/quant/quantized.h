// A model in the form the artifact stores: matrices as codes and row scales, small tensors as
// float16.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fairway/base/tensor.h"
#include "fairway/model/config.h"

namespace fairway {

// W[r, c] ≈ scales[r] · codes[r, c]; |code| ≤ 2^(bits−1) − 1.
struct QuantizedMatrix {
  int64_t rows = 0, cols = 0;
  int bits = 0;
  std::vector<int8_t> codes;     // [rows, cols]
  std::vector<uint16_t> scales;  // [rows] binary16

  int c_max() const { return (1 << (bits - 1)) - 1; }
  bool operator==(const QuantizedMatrix&) const = default;
};

// out[r, c] = scale[r] · code[r, c] in float32.
void dequantize(const QuantizedMatrix& q, Tensor<float> out);

// A tensor of SPEC §7: quantized, or (matrix.bits == 0) kept as binary16.
struct StoredTensor {
  std::string name;
  Shape shape;
  QuantizedMatrix matrix;
  std::vector<uint16_t> half;

  bool quantized() const { return matrix.bits != 0; }
  bool operator==(const StoredTensor&) const = default;
};

struct QuantizedModel {
  ModelConfig config;
  std::optional<uint64_t> tokenizer_hash;  // Tokenizer::hash() of the text it was trained on
  std::vector<StoredTensor> tensors;       // in the order of for_each_named
  bool operator==(const QuantizedModel&) const = default;
};

// The flat float32 weights (model/weights.h) that the quantized model stands for.
std::vector<float> dequantize(const QuantizedModel& model);

}  // namespace fairway
