// How a model is scored: the recipe's [eval] and [ttt] tables. SPEC §6.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "fairway/device/cpu_device.h"

namespace fairway {

enum class EvalMode { chunked, sliding, ttt };
inline constexpr std::array<std::string_view, 3> names(EvalMode) {
  return {"chunked", "sliding", "ttt"};
}

struct EvalConfig {
  EvalMode mode = EvalMode::chunked;
  int64_t batch_tokens = 65536;
  int64_t stride = 64;
  int64_t window = 2048;
  int64_t max_docs = 0;
  bool loop = true;
  int64_t pass_tokens = 0;
  MatmulPrecision matmul_precision = MatmulPrecision::automatic;

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const EvalConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("mode", c.mode, "chunked, sliding or ttt (test-time training)");
    f("batch_tokens", c.batch_tokens, "chunked: tokens of one span of the stream");
    f("stride", c.stride, "sliding: a window starts every so many tokens");
    f("window", c.window, "sliding: tokens of one window");
    f("max_docs", c.max_docs, "score only the first so many documents (0: all)");
    f("loop", c.loop, "run the looped layers as often as num_loops says");
    f("pass_tokens", c.pass_tokens,
      "tokens in one forward pass (0: as many as suit the device): more memory for more speed, "
      "never another result");
    f("matmul_precision", c.matmul_precision,
      "inputs of matrix products: float32, bfloat16, float8 (the MLP's, the others as auto), or "
      "auto (as in training; as auto there if that is float8)");
  }
};

// Test-time training: every document adapts its own LoRA as it is scored.
struct TttConfig {
  int rank = 96;  // R
  double lr = 1e-4;
  double weight_decay = 0.5;
  double beta1 = 0;
  double beta2 = 0.999;
  double eps = 1e-10;
  int64_t chunk_size = 32;
  int64_t batch_docs = 0;
  int64_t window = 2048;
  int grad_steps = 1;
  bool k = true;
  bool o = true;
  bool mlp = true;
  uint64_t seed = 1337;
  std::string lora_init;

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const TttConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("rank", c.rank, "rank R of every adapter");
    f("lr", c.lr, "learning rate of the AdamW step after each chunk");
    f("weight_decay", c.weight_decay, "decoupled weight decay");
    f("beta1", c.beta1, "decay of the first moment (0: it is the gradient and is not stored)");
    f("beta2", c.beta2, "decay of the second moment");
    f("eps", c.eps, "added to the root of the second moment");
    f("chunk_size", c.chunk_size, "targets scored between two steps");
    f("batch_docs", c.batch_docs,
      "documents trained side by side, at most (0: as many as suit the device); each takes the "
      "memory of three adapters");
    f("window", c.window, "longest context of a chunk, the chunk included");
    f("grad_steps", c.grad_steps, "AdamW steps after each chunk");
    f("k", c.k, "adapt the key projections");
    f("o", c.o, "adapt the attention outputs");
    f("mlp", c.mlp, "adapt the MLPs");
    f("seed", c.seed, "seed of the initial A of every document");
    f("lora_init", c.lora_init,
      "safetensors file whose ttt.init.* tensors replace the initial A of every document");
  }
};

}  // namespace fairway
