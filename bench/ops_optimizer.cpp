// The optimizer's ops, on the whole model's parameters.
#include <algorithm>

#include "fairway/model/weights.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/ema.h"
#include "fairway/ops/grad_norm.h"
#include "fairway/ops/muon.h"
#include "fairway/ops/newton_schulz.h"
#include "ops_bench.h"

namespace fairway::bench {

template <class Device, class E>
void OpsBench<Device, E>::optimizer() {
  const int64_t flat = flat_size(c);
  const double P = static_cast<double>(flat);
  const auto floats = [&](Shape shape) { return take_as(0.0f, shape); };
  const auto w = floats({flat}), g = floats({flat}), m = floats({flat}), v2 = floats({flat});
  double* const total = take_as(0.0, {1}).data;
  measure_bytes("grad_norm", 4 * (P), 0, [&] { add_squares(device, flat, g.data, total); });
  measure_bytes("adamw", 4 * (7 * P), 0, [&] {
    adamw(device, flat, w.data, g.data, m.data, v2.data, {.lr = 1e-9, .step = 1000});
  });
  measure_bytes("muon_momentum", 4 * (4 * P), 0,
                [&] { muon_momentum(device, flat / D, D, g.data, m.data, v2.data, 0.95, 1e-7); });
  measure_bytes("muon_apply", 4 * (3 * P), 0,
                [&] { muon_apply(device, flat, w.data, g.data, 0.999, 1e-9); });
  measure_bytes("ema", 4 * (3 * P), 0, [&] { ema(device, flat, m.data, w.data, 0.9965); });
  const int64_t layers = c.num_layers, small = std::min(hidden, D), large = std::max(hidden, D);
  const auto matrices = floats({layers, hidden, D}),
             ns = floats({newton_schulz_scratch(layers, hidden, D)});
  const double cube = static_cast<double>(small) * static_cast<double>(small);
  const double step_flops = 2 * cube * static_cast<double>(2 * large + small);
  measure_bytes("newton_schulz, Wup of all layers", 8 * n(layers, hidden * D),
                5 * static_cast<double>(layers) * step_flops,
                [&] { newton_schulz(device, layers, hidden, D, matrices.data, {}, ns.data); });
}

#define FAIRWAY_INSTANTIATE(Device, E) template void OpsBench<Device, E>::optimizer();
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::bench
