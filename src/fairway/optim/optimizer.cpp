#include "fairway/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <string_view>

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

OptimState take_optim_state(const ModelConfig& model, Arena& arena) {
  const int64_t flat = flat_size(model), banks = bank_size(model);
  OptimState s;
  s.momentum = arena.take<float>("Muon momentum", {banks});
  s.adam_m = arena.take<float>("AdamW moments", {flat - banks});
  s.adam_v = arena.take<float>("AdamW moments", {flat - banks});
  s.ema = arena.take<float>("moving average", {flat});
  return s;
}

size_t optim_scratch_bytes(const ModelConfig& model) {
  int64_t floats = 0;
  for_each(
      weights_view<float>(model, nullptr), [&](const char*, ParamGroup group, Tensor<float> w) {
        if (group == ParamGroup::bank)
          floats = std::max(floats, newton_schulz_scratch(w.extent(0), w.extent(1), w.extent(2)));
      });
  return static_cast<size_t>(floats) * sizeof(float) + 64;
}

template <class Device>
void optimizer_step(Device& device, const ModelConfig& model, const OptimConfig& c, int64_t step,
                    double lr_factor, float* weights, float* gradients, const OptimState& state,
                    Arena scratch) {
  const int64_t flat = flat_size(model), banks = bank_size(model);
  const auto adam = [&](int64_t begin, int64_t end, double lr, double weight_decay) {
    adamw(device, end - begin, weights + begin, gradients + begin,
          state.adam_m.data + begin - banks, state.adam_v.data + begin - banks,
          {lr * lr_factor, c.beta1, c.beta2, c.adam_eps, weight_decay, step + 1});
  };
  const double mu = momentum_at(c, step);
  int64_t small_begin = flat;
  for_each(weights_view(model, weights), [&](const char*, ParamGroup group, Tensor<float> w) {
    const int64_t offset = w.data - weights;
    switch (group) {
      case ParamGroup::bank: {
        const size_t mark = scratch.mark();
        const auto space = scratch.take<float>(
            "optimizer scratch", {newton_schulz_scratch(w.extent(0), w.extent(1), w.extent(2))});
        muon_step(device, c, mu, c.matrix_lr * lr_factor, w, gradients + offset,
                  state.momentum.data + offset, space.data);
        scratch.release(mark);
        break;
      }
      case ParamGroup::embedding:
        adam(offset, offset + w.size(), c.embed_lr, c.embed_weight_decay);
        break;
      case ParamGroup::head:
        adam(offset, offset + w.size(), c.head_lr, c.head_weight_decay);
        break;
      case ParamGroup::small:  // one contiguous run, gaps (zeros) included
        small_begin = std::min(small_begin, offset);
        break;
    }
  });
  adam(small_begin, flat, c.small_lr, c.small_weight_decay);
  ema(device, flat, state.ema.data, weights, c.ema_decay);
}

template void optimizer_step(CpuDevice&, const ModelConfig&, const OptimConfig&, int64_t, double,
                             float*, float*, const OptimState&, Arena);
#if FAIRWAY_WITH_CUDA
template void optimizer_step(CudaDevice&, const ModelConfig&, const OptimConfig&, int64_t, double,
                             float*, float*, const OptimState&, Arena);
#endif

}  // namespace fairway
