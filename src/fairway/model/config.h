// The model's configuration: the recipe's [model] table and the `config` key of a weights file.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace fairway {

// Which lane the parallel part ends in: their mean, or one of them (mlp: lane 1, attn: lane 0).
enum class FinalLane { mean, mlp, attn };
inline constexpr std::array<std::string_view, 3> names(FinalLane) {
  return {"mean", "mlp", "attn"};
}

struct ModelConfig {
  int vocab_size = 8192;  // V
  int num_layers = 11;    // L, stored layers
  int model_dim = 512;    // D
  int num_heads = 8;      // H
  int num_kv_heads = 4;   // K
  double mlp_mult = 4.0;  // F = mlp_mult · D
  int rope_dims = 16;     // rotary dimensions of each head; 0 = all of d
  double rope_base = 10000.0;
  int max_doc_len = 2048;
  double qk_gain_init = 5.0;
  double logit_softcap = 30.0;  // c
  bool tie_embeddings = true;
  bool skip_gates = true;
  bool ln_scale = true;
  int xsa_last_n = 11;
  int num_loops = 2;  // extra passes over [loop_start, loop_end]; 0 = no looping
  int loop_start = 3;
  int loop_end = 5;
  int parallel_start_layer = 8;  // 0 = no parallel lanes
  FinalLane parallel_final_lane = FinalLane::mean;
  double norm_eps = 0x1p-23;

  int head_dim() const { return model_dim / num_heads; }  // d
  int kv_dim() const { return num_kv_heads * head_dim(); }
  int mlp_dim() const { return static_cast<int>(mlp_mult * model_dim + 0.5); }  // F
  int rotary_dims() const { return rope_dims == 0 ? head_dim() : rope_dims; }
  // ln of a block: 1/sqrt(i+1), or 1.
  double ln(int layer) const;

  // Throws UsageError naming the key whose value is impossible.
  void validate() const;

  bool operator==(const ModelConfig&) const = default;

  template <class Self, class F>
  static void visit_fields(Self& c, F&& f) {
    f("vocab_size", c.vocab_size, "tokens in the vocabulary, V");
    f("num_layers", c.num_layers, "stored layers, L");
    f("model_dim", c.model_dim, "model width, D");
    f("num_heads", c.num_heads, "query heads, H");
    f("num_kv_heads", c.num_kv_heads, "key/value heads, K");
    f("mlp_mult", c.mlp_mult, "MLP hidden width as a multiple of D");
    f("rope_dims", c.rope_dims, "rotary dimensions of each head (0: all)");
    f("rope_base", c.rope_base, "base of the rotary frequencies");
    f("max_doc_len", c.max_doc_len, "longest attention segment, in tokens");
    f("qk_gain_init", c.qk_gain_init, "initial q_gain");
    f("logit_softcap", c.logit_softcap, "logits are c·tanh(z/c)");
    f("tie_embeddings", c.tie_embeddings, "the head is the embedding");
    f("skip_gates", c.skip_gates, "skip connections are gated");
    f("ln_scale", c.ln_scale, "scale normalised inputs by 1/sqrt(layer+1)");
    f("xsa_last_n", c.xsa_last_n, "layers, counted from the last, with exclusive attention");
    f("num_loops", c.num_loops, "extra passes over the looped layers (0: none)");
    f("loop_start", c.loop_start, "first looped layer");
    f("loop_end", c.loop_end, "last looped layer");
    f("parallel_start_layer", c.parallel_start_layer, "first layer with parallel lanes (0: none)");
    f("parallel_final_lane", c.parallel_final_lane, "what the lanes end in: mean, mlp or attn");
    f("norm_eps", c.norm_eps, "eps of every rms norm");
  }
};

// The JSON object of SPEC §7 (exactly these keys), and back. from_json throws Error, naming
// `where`, on missing, unknown or mistyped keys and on impossible values.
std::string to_json(const ModelConfig& config);
ModelConfig model_config_from_json(std::string_view json, const std::string& where);

}  // namespace fairway
