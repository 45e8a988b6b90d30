// The optimizer's numbers (SPEC §4): the recipe's [optim] table.
#pragma once

#include <array>
#include <string_view>

namespace fairway {

// Where gradients are clipped: each rank's own gradient before the reduction, or their mean after
// it. With one rank both are the same.
enum class ClipMode { per_rank, global };
inline constexpr std::array<std::string_view, 2> names(ClipMode) {
  return {"per-rank", "global"};
}

struct OptimConfig {
  // Muon: the matrix banks.
  double matrix_lr = 0.022;
  double matrix_weight_decay = 0.095;
  double muon_momentum = 0.97;  // μ, after its warm-up
  double muon_momentum_start = 0.92;
  int muon_momentum_warmup_steps = 1500;
  int newton_schulz_steps = 5;
  double newton_schulz_a = 3.4445;
  double newton_schulz_b = -4.775;
  double newton_schulz_c = 2.0315;
  double muon_eps = 1e-7;  // floor of row norms, and added to the Frobenius norm

  // AdamW: everything else.
  double embed_lr = 0.03;
  double embed_weight_decay = 0.085;
  double head_lr = 0.008;  // an untied head
  double head_weight_decay = 0.0;
  double small_lr = 0.02;  // vectors and scalars
  double small_weight_decay = 0.02;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double adam_eps = 1e-8;

  double clip_norm = 0.3;  // 0: no clipping
  ClipMode clip_mode = ClipMode::per_rank;
  double ema_decay = 0.9965;

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const OptimConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("matrix_lr", c.matrix_lr, "learning rate of matrices (Muon)");
    f("matrix_weight_decay", c.matrix_weight_decay, "decoupled weight decay of matrices");
    f("muon_momentum", c.muon_momentum, "momentum of Muon after its warm-up");
    f("muon_momentum_start", c.muon_momentum_start, "momentum of Muon at step 0");
    f("muon_momentum_warmup_steps", c.muon_momentum_warmup_steps,
      "steps over which the momentum rises linearly");
    f("newton_schulz_steps", c.newton_schulz_steps, "Newton-Schulz iterations");
    f("newton_schulz_a", c.newton_schulz_a, "a of X <- aX + (bA + cAA)X");
    f("newton_schulz_b", c.newton_schulz_b, "b of X <- aX + (bA + cAA)X");
    f("newton_schulz_c", c.newton_schulz_c, "c of X <- aX + (bA + cAA)X");
    f("muon_eps", c.muon_eps, "floor of the norms that Muon divides by");
    f("embed_lr", c.embed_lr, "learning rate of the embedding (AdamW)");
    f("embed_weight_decay", c.embed_weight_decay, "decoupled weight decay of the embedding");
    f("head_lr", c.head_lr, "learning rate of an untied head (AdamW)");
    f("head_weight_decay", c.head_weight_decay, "decoupled weight decay of an untied head");
    f("small_lr", c.small_lr, "learning rate of vectors and scalars (AdamW)");
    f("small_weight_decay", c.small_weight_decay, "decoupled weight decay of vectors and scalars");
    f("beta1", c.beta1, "decay of AdamW's first moment");
    f("beta2", c.beta2, "decay of AdamW's second moment");
    f("adam_eps", c.adam_eps, "epsilon of AdamW");
    f("clip_norm", c.clip_norm, "gradients are clipped to this norm (0: not clipped)");
    f("clip_mode", c.clip_mode, "clip each rank's gradient (per-rank) or their mean (global)");
    f("ema_decay", c.ema_decay, "decay of the weights' moving average, which is exported");
  }
};

}  // namespace fairway
