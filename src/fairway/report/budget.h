// Where the bytes of an artifact went, against the budget of SPEC §1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "fairway/quant/artifact.h"
#include "fairway/quant/brotli_yardstick.h"

namespace fairway {

// `tar | xz -9e` of the sources that the evaluator is built from (scripts/evaluator-sources.sh), as
// measured when this program was built.
uint64_t evaluator_source_bytes();

struct Budget {
  ArtifactBytes artifact;
  std::optional<BrotliComparison> brotli;
  double code_entropy_bits = 0;  // of every matrix's own histogram of codes, summed

  uint64_t total() const { return artifact.total + evaluator_source_bytes(); }
  bool fits() const;
};

// Σ over matrices of codes · the entropy of their histogram: what a coder reaches that knows
// nothing but how often each code occurs.
double histogram_entropy_bits(const QuantizedModel& model);

// A table of every byte: groups of tensors (the same matrix of all layers), container, sources,
// total.
std::string to_markdown(const Budget& budget);
// The same by tensor.
std::string to_json(const Budget& budget);

}  // namespace fairway
