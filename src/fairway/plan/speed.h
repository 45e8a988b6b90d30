// How fast one rank computes.
#pragma once

#include <vector>

#include "fairway/device/cpu_device.h"
#include "fairway/model/config.h"

namespace fairway {

// Keys that a query meets on average in documents like FineWeb's (log-normal lengths, median 475
// tokens, one in ten above 1,596) cut at 2,048: what `fairway bench step` trains on.
inline constexpr double kMeanContext = 585;

// Seconds of a whole step of the record's model, one micro-batch, on one H100 (docs/performance.md,
// "One GPU"): of 11 visits, `fairway bench step --no-loop`, and of 17, without that.
struct MeasuredStep {
  double plain, looped;
};
inline constexpr MeasuredStep kBfloat16Step{64.8e-3, 97.1e-3};
// With four of the MLP's products in float8; with all six it is shorter, and not measured there
// yet.
inline constexpr MeasuredStep kFloat8Step{60.3e-3, 91.0e-3};
inline constexpr double kMeasuredTokens = 98304;
inline constexpr double kOptimizerSeconds = 1.97e-3;  // of each: what follows the backward pass

// Forward and backward passes of one micro-batch.
class ComputeSpeed {
 public:
  // One H100's on the record's model, as measured; on other models by their flops.
  ComputeSpeed() = default;
  // Tokens a second on the route without looping, and on the looped one; that by flops if it is 0.
  ComputeSpeed(double plain, double looped) : plain_(plain), looped_(looped) {}

  // `precision`: which of the measured steps it is a part of; float32 is none of them. `context`:
  // keys that a query meets, on average.
  double seconds(const ModelConfig& model, MatmulPrecision precision, bool looped, double tokens,
                 double context) const;
  bool is_measured() const { return plain_ == 0; }

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
