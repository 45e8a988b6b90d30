#include "fairway/plan/speed.h"

#include <algorithm>
#include <string>

#include "fairway/base/bf16.h"
#include "fairway/base/check.h"
#include "fairway/model/weights.h"
#include "fairway/optim/config.h"
#include "fairway/plan/flops.h"

namespace fairway {

namespace {

// Of a plain step, what a smaller micro-batch takes as well: from steps of 12,288 to 98,304 tokens
// on an H200 in bfloat16 (docs/scaling.md).
constexpr double kFixedSeconds = 1.3e-3;
// Flops of a product in the time of one byte: 775 TFLOP/s and 3.0 TB/s.
constexpr double kFlopsPerByte = 258;

double flops_of(const Network& net, double tokens, double context) {
  return training_flops(net, tokens, tokens * context).total();
}

double measured_seconds(const Network& net, const MeasuredStep& step, bool looped, double tokens,
                        double context) {
  const ModelConfig record;
  const Network measured(record, looped && net.config.num_loops > 0);
  // What is lost between kernels is lost once a visit.
  const double fixed = kFixedSeconds / record.num_layers;
  const double in_kernels = (measured.slots() > record.num_layers ? step.looped : step.plain) -
                            kOptimizerSeconds - fixed * measured.slots();
  return fixed * net.slots() + in_kernels * flops_of(net, tokens, context) /
                                   flops_of(measured, kMeasuredTokens, kMeanContext);
}

}  // namespace

double ComputeSpeed::seconds(const ModelConfig& model, MatmulPrecision precision, bool looped,
                             double tokens, double context) const {
  const Network net(model, looped);
  if (is_measured()) {
    check(precision != MatmulPrecision::float32, "ComputeSpeed: nothing was measured in float32");
    return measured_seconds(net, precision == MatmulPrecision::float8 ? kFloat8Step : kBfloat16Step,
                            looped, tokens, context);
  }
  if (looped && looped_ > 0) return tokens / looped_;
  return tokens / plain_ * flops_of(net, tokens, context) /
         flops_of(Network(model, false), tokens, context);
}

double OptimizerWork::total() const {
  double sum = rest;
  for (const double bank : banks) sum += bank;
  return sum;
}

OptimizerWork optimizer_work(const ModelConfig& model, int newton_schulz_steps) {
  constexpr double kFloat = sizeof(float), kRounded = sizeof(bf16);
  OptimizerWork work;
  for_each(weights_view<float>(model, nullptr), [&](const std::string&, ParamGroup group,
                                                    Tensor<float> w) {
    const auto elements = static_cast<double>(w.size());
    // The norm reads the gradient, clipping reads and writes it.
    work.rest += elements * kFloat * 3;
    // Products read what is rounded to bfloat16.
    if (group != ParamGroup::small) work.rest += elements * (kFloat + kRounded);
    if (group == ParamGroup::bank) {
      const auto rows = static_cast<double>(w.extent(1)), cols = static_cast<double>(w.extent(2));
      const double n = std::min(rows, cols);
      const double products = static_cast<double>(w.extent(0)) * newton_schulz_steps *
                              (2 * 2 * n * rows * cols + 2 * n * n * n);
      // Momentum: two buffers read, two written; update and moving average: two and one each.
      work.banks.push_back(elements * kFloat * (4 + 3 + 3) + products / kFlopsPerByte);
    } else {
      // AdamW: four read, three written; moving average: two and one.
      work.rest += elements * kFloat * (7 + 3);
    }
  });
  return work;
}

double measured_optimizer_seconds(const OptimizerWork& work) {
  const OptimizerWork record = optimizer_work({}, OptimConfig{}.newton_schulz_steps);
  return kOptimizerSeconds * work.total() / record.total();
}

}  // namespace fairway
