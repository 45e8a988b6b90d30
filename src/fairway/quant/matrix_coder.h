// The entropy coder of quantized matrices.
//
// A row of GPTQ codes is, to a good approximation, a row of independent Gaussians: its scale was
// chosen so that their mean square is known in advance. What differs is the variance of the
// columns, which the rows already coded tell, and what the codes left of the current one have used
// up of the row's energy. docs/formats.md has the formulas, docs/numerics.md what each part of the
// model is worth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "fairway/quant/quantized.h"

namespace fairway {

// What the encoder chooses for a matrix and the decoder is told: part of the tensor table.
struct MatrixParams {
  uint32_t mean_square = 1;  // of the codes, in 1/64: 1 … 2^20
  uint8_t prior = 0;         // index: rows that the prior of a column's variance counts for
  uint8_t slack = 0;         // index: how exactly a row's energy is known
  uint8_t shape = 0;         // of the Gaussians (gaussian.h)
  uint8_t repeats = 0;  // 1: each row begins with a bit that says whether it repeats the last one
  bool valid() const;
  bool operator==(const MatrixParams&) const = default;
};

struct CodedMatrix {
  MatrixParams params;
  std::vector<std::byte> bytes;
  double model_bits = 0;  // −Σ log2 p of the codes under the model, in double
};

CodedMatrix encode_matrix(const QuantizedMatrix& matrix);

// Fills `codes` [rows, cols]. Any bytes decode to something within ±c_max; it is for checksums to
// tell whether it is what was encoded. `params` must be valid.
void decode_matrix(std::span<const std::byte> bytes, const MatrixParams& params, int64_t rows,
                   int64_t cols, int bits, int8_t* codes);

}  // namespace fairway
