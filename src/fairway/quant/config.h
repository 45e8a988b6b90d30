// How a trained model becomes an artifact: the recipe's [quant] table.
#pragma once

#include <cstdint>

namespace fairway {

struct QuantConfig {
  int bits = 6;                // of matrix codes
  int embed_bits = 8;          // of the embedding's (and an untied head's) codes
  double clip_sigmas = 12.85;  // c_max codes span this many standard deviations of a row
  double embed_clip_sigmas = 20.0;
  int calibration_batches = 64;  // n
  int64_t calibration_batch_tokens = 98304;
  int calibration_window = 2048;        // tokens that attend to one another
  double damping = 0.01;                // added to diag H, as a fraction of its mean
  int block = 128;                      // columns quantized between two propagations
  int64_t keep_float_elements = 65536;  // tensors of at most this many elements stay float16
  uint64_t seed = 1337;                 // of the choice of calibration windows

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const QuantConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("bits", c.bits, "bits of a matrix code (2 to 8)");
    f("embed_bits", c.embed_bits, "bits of an embedding or head code (2 to 8)");
    f("clip_sigmas", c.clip_sigmas, "standard deviations of a row that the codes span, matrices");
    f("embed_clip_sigmas", c.embed_clip_sigmas, "the same for the embedding and the head");
    f("calibration_batches", c.calibration_batches, "batches of text the Hessians are summed over");
    f("calibration_batch_tokens", c.calibration_batch_tokens, "tokens of one calibration batch");
    f("calibration_window", c.calibration_window, "tokens of one calibration window");
    f("damping", c.damping, "added to the Hessian's diagonal, as a fraction of its mean");
    f("block", c.block, "columns quantized between two error propagations");
    f("keep_float_elements", c.keep_float_elements, "tensors of at most this many stay float16");
    f("seed", c.seed, "seed of the choice of calibration windows");
  }
};

}  // namespace fairway
