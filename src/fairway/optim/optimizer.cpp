#include "fairway/optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "fairway/device/run_types.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/ema.h"
#include "fairway/ops/muon.h"
#include "fairway/ops/newton_schulz.h"
#include "fairway/optim/schedule.h"

namespace fairway {

namespace {

// Muon on one bank [matrices, rows, cols]; g becomes the update.
template <class Device>
void muon_step(Device& device, const OptimConfig& c, double mu, double lr, Tensor<float> w,
               float* g, float* momentum, float* scratch) {
  const int64_t matrices = w.extent(0), rows = w.extent(1), cols = w.extent(2);
  muon_momentum(device, matrices * rows, cols, g, momentum, g, mu, c.muon_eps);
  newton_schulz(
      device, matrices, rows, cols, g,
      {c.newton_schulz_steps, c.newton_schulz_a, c.newton_schulz_b, c.newton_schulz_c, c.muon_eps},
      scratch);
  const double shape =
      std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
  muon_apply(device, w.size(), w.data, g, 1 - lr * c.matrix_weight_decay, lr * shape);
}

}  // namespace

OptimState take_optim_state(const Shard& shard, Arena& arena) {
  OptimState s;
  s.momentum = arena.take<float>("Muon momentum", {shard.bank_elements});
  s.adam_m = arena.take<float>("AdamW moments", {shard.rest_size});
  s.adam_v = arena.take<float>("AdamW moments", {shard.rest_size});
  s.ema = arena.take<float>("moving average", {shard.size()});
  return s;
}

size_t optim_scratch_bytes(const Shard& shard) {
  int64_t floats = 0;
  for (const BankSlice& b : shard.banks)
    floats = std::max(floats, newton_schulz_scratch(b.count, b.rows, b.cols));
  return static_cast<size_t>(floats) * sizeof(float) + 64;
}

template <class Device>
void optimizer_step(Device& device, const ModelConfig& model, const OptimConfig& c, int64_t step,
                    double lr_factor, float* weights, float* gradients, const OptimState& state,
                    Sharding& sharding, Arena scratch) {
  const Shard& shard = sharding.shard();
  const double mu = momentum_at(c, step);
  for (size_t i = 0; i < shard.banks.size(); ++i) {
    const BankSlice& b = shard.banks[i];
    sharding.wait_bank(i);
    if (b.count > 0) {
      const size_t mark = scratch.mark();
      const auto space = scratch.take<float>("optimizer scratch",
                                             {newton_schulz_scratch(b.count, b.rows, b.cols)});
      muon_step(device, c, mu, c.matrix_lr * lr_factor,
                {weights + b.own(), {b.count, b.rows, b.cols}}, gradients + b.own(),
                state.momentum.data + b.state, space.data);
      scratch.release(mark);
    }
    sharding.start_gather(i, weights);
  }

  sharding.wait_rest();
  const auto adam = [&](int64_t begin, int64_t end, double lr, double weight_decay) {
    adamw(device, end - begin, weights + begin, gradients + begin,
          state.adam_m.data + begin - shard.rest_flat, state.adam_v.data + begin - shard.rest_flat,
          {lr * lr_factor, c.beta1, c.beta2, c.adam_eps, weight_decay, step + 1});
  };
  const int64_t small_begin = matrices_size(model);
  for_each(weights_view(model, weights), [&](const char*, ParamGroup group, Tensor<float> w) {
    const int64_t offset = w.data - weights;
    if (group == ParamGroup::embedding)
      adam(offset, offset + w.size(), c.embed_lr, c.embed_weight_decay);
    if (group == ParamGroup::head) adam(offset, offset + w.size(), c.head_lr, c.head_weight_decay);
  });
  // One contiguous run, gaps (zeros) included.
  adam(small_begin, shard.rest_flat + shard.rest_size, c.small_lr, c.small_weight_decay);

  for (const OwnRun& run : shard.runs())
    ema(device, run.size, state.ema.data + run.state, weights + run.flat, c.ema_decay);
  sharding.wait_gathered();
}

template void optimizer_step(CpuDevice&, const ModelConfig&, const OptimConfig&, int64_t, double,
                             float*, float*, const OptimState&, Sharding&, Arena);
#if FAIRWAY_WITH_CUDA
template void optimizer_step(CudaDevice&, const ModelConfig&, const OptimConfig&, int64_t, double,
                             float*, float*, const OptimState&, Sharding&, Arena);
#endif

}  // namespace fairway
