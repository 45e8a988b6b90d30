// How fast one rank computes.
#pragma once

#include <vector>

#include "fairway/model/config.h"

namespace fairway {

// Keys that a query meets on average in documents like FineWeb's (log-normal lengths, median 475
// tokens, one in ten above 1,596) cut at 2,048: what `fairway bench step` trains on.
inline constexpr double kMeanContext = 585;

// Forward and backward passes of one micro-batch.
class ComputeSpeed {
 public:
  // One H100's on the record's model in bfloat16, as measured (docs/performance.md); on other
  // models by their flops.
  ComputeSpeed() = default;
  // Tokens a second on the route without looping, and on the looped one; that by flops if it is 0.
  ComputeSpeed(double plain, double looped) : plain_(plain), looped_(looped) {}

  // `context`: keys that a query meets, on average.
  double seconds(const ModelConfig& model, bool looped, double tokens, double context) const;

 private:
  double plain_ = 0, looped_ = 0;
};

// What follows the backward pass (clipping, optimizer, moving average, rounding): the bytes that it
// moves and, in place of Newton-Schulz products, the bytes that would take as long.
struct OptimizerWork {
  std::vector<double> banks;  // Muon and moving average of each whole bank: shared out over ranks
  double rest = 0;            // everything else: on every rank

  double total() const;
};
OptimizerWork optimizer_work(const ModelConfig& model, int newton_schulz_steps);

// Seconds of that work on one rank alone, as measured on an H100 with the record's model.
double measured_optimizer_seconds(const OptimizerWork& work);

}  // namespace fairway
