// The parameters of a model: one flat buffer, and typed views into it.
//
// Everything with one element per parameter (gradients, EMA, momentum, bf16 shadow copies) is a
// flat buffer of the same layout, seen through the same struct. The order of the buffer is the
// order in which the optimizer treats it: matrix banks (Muon), embedding and head (Adam), then all
// small tensors in one contiguous run. Each tensor starts at a multiple of 64 elements; the gaps
// hold zeros.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "fairway/base/accum.h"
#include "fairway/base/tensor.h"
#include "fairway/model/config.h"

namespace fairway {

class SafetensorsFile;

enum class ParamGroup { bank, embedding, head, small };

// Matrices are of type T, vectors and scalars of Accum<T> (float beside bf16).
// Legend: L layers, D model width, F MLP width, Kd = K·d key/value width, V vocabulary.
template <class T>
struct Weights {
  Tensor<T> qo_bank;              // [2L, D, D]   Wq of each layer, then Wo of each layer
  Tensor<T> kv_bank;              // [2L, Kd, D]  Wk of each layer, then Wv of each layer
  Tensor<T> mlp_up_bank;          // [L, F, D]
  Tensor<T> mlp_down_bank;        // [L, D, F]
  Tensor<T> tok_emb;              // [V, D]
  Tensor<T> lm_head;              // [V, D], null when tied
  Tensor<Accum<T>> q_gain;        // [L, H]
  Tensor<Accum<T>> attn_scale;    // [L, D]
  Tensor<Accum<T>> mlp_scale;     // [L, D]
  Tensor<Accum<T>> resid_mix;     // [L, 2, D]
  Tensor<Accum<T>> skip_weights;  // [num_skip, D]
  Tensor<Accum<T>> skip_gates;    // [num_skip, D], null when skip_gates is off
  Tensor<Accum<T>>
      parallel_post_lambdas;  // [L, 2, 2]    pl[i, from (attn, mlp), to (lane0, lane1)]
  Tensor<Accum<T>> parallel_resid_lambdas;  // [L, 2]

  int64_t layers() const { return mlp_up_bank.extent(0); }
  Tensor<T> wq(int64_t layer) const { return qo_bank.slice(layer); }
  Tensor<T> wo(int64_t layer) const { return qo_bank.slice(layers() + layer); }
  Tensor<T> wk(int64_t layer) const { return kv_bank.slice(layer); }
  Tensor<T> wv(int64_t layer) const { return kv_bank.slice(layers() + layer); }
  Tensor<T> wup(int64_t layer) const { return mlp_up_bank.slice(layer); }
  Tensor<T> wdown(int64_t layer) const { return mlp_down_bank.slice(layer); }
  // The matrix of the head: lm_head, or the embedding when tied.
  Tensor<T> head() const { return lm_head ? lm_head : tok_emb; }
};

// Number of skip connections: min(|encoder|, |decoder|) of the looped sequence.
int num_skip_weights(const ModelConfig& config);

// Elements that a tensor of n takes there, the gap behind it included.
constexpr int64_t flat_aligned(int64_t n) {
  return (n + 63) / 64 * 64;
}
// Elements of the flat buffer, alignment gaps included.
int64_t flat_size(const ModelConfig& config);
// Elements of its first part, the matrix banks: the embedding starts there.
int64_t bank_size(const ModelConfig& config);
// Elements of its part that holds matrices: banks, embedding and head. Vectors follow.
int64_t matrices_size(const ModelConfig& config);
// Parameters, gaps excluded.
int64_t num_params(const ModelConfig& config);

// Views into flat buffers (either may be null to learn shapes and offsets): matrices, embedding and
// head lie in `matrices`, vectors in `vectors`, each at its offset in the flat order.
template <class T>
Weights<T> weights_view(const ModelConfig& config, T* matrices, Accum<T>* vectors);
// Both in one buffer of flat_size elements.
template <class T>
Weights<T> weights_view(const ModelConfig& config, T* flat) {
  return weights_view<T>(config, flat, flat);
}

// f(name, group, tensor) for each stored tensor, in flat order: banks whole, small tensors stacked
// over layers. The optimizer, checkpoints and EMA go by this.
template <class T, class F>
void for_each(const Weights<T>& w, F&& f) {
  f("qo_bank", ParamGroup::bank, w.qo_bank);
  f("kv_bank", ParamGroup::bank, w.kv_bank);
  f("mlp_up_bank", ParamGroup::bank, w.mlp_up_bank);
  f("mlp_down_bank", ParamGroup::bank, w.mlp_down_bank);
  f("tok_emb.weight", ParamGroup::embedding, w.tok_emb);
  if (w.lm_head.size() && w.lm_head.shape.rank) f("lm_head.weight", ParamGroup::head, w.lm_head);
  f("q_gain", ParamGroup::small, w.q_gain);
  f("attn_scale", ParamGroup::small, w.attn_scale);
  f("mlp_scale", ParamGroup::small, w.mlp_scale);
  f("resid_mix", ParamGroup::small, w.resid_mix);
  f("skip_weights", ParamGroup::small, w.skip_weights);
  if (w.skip_gates.shape.rank) f("skip_gates", ParamGroup::small, w.skip_gates);
  f("parallel_post_lambdas", ParamGroup::small, w.parallel_post_lambdas);
  f("parallel_resid_lambdas", ParamGroup::small, w.parallel_resid_lambdas);
}

// f(name, tensor) for each tensor of SPEC §7, layer by layer: "blocks.3.attn.c_q.weight" and so on.
// Files (safetensors, artifacts) and the quantizer go by this.
template <class T, class F>
void for_each_named(const Weights<T>& w, F&& f) {
  f(std::string("tok_emb.weight"), w.tok_emb);
  if (w.lm_head.shape.rank) f(std::string("lm_head.weight"), w.lm_head);
  for (int64_t i = 0; i < w.layers(); ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".";
    f(block + "attn.c_q.weight", w.wq(i));
    f(block + "attn.c_k.weight", w.wk(i));
    f(block + "attn.c_v.weight", w.wv(i));
    f(block + "attn.proj.weight", w.wo(i));
    f(block + "mlp.fc.weight", w.wup(i));
    f(block + "mlp.proj.weight", w.wdown(i));
    f(block + "attn.q_gain", w.q_gain.slice(i));
    f(block + "attn_scale", w.attn_scale.slice(i));
    f(block + "mlp_scale", w.mlp_scale.slice(i));
    f(block + "resid_mix", w.resid_mix.slice(i));
  }
  f(std::string("skip_weights"), w.skip_weights);
  if (w.skip_gates.shape.rank) f(std::string("skip_gates"), w.skip_gates);
  f(std::string("parallel_post_lambdas"), w.parallel_post_lambdas);
  f(std::string("parallel_resid_lambdas"), w.parallel_resid_lambdas);
}

// SPEC §7: weights and configuration as one safetensors file.
struct LoadedModel {
  ModelConfig config;
  std::vector<float> flat;
};
void save_model(const std::filesystem::path& path, const ModelConfig& config, const float* flat);
// Throws Error on a missing, extra or misshapen tensor, or a bad configuration.
LoadedModel load_model(const std::filesystem::path& path);
LoadedModel load_model(const SafetensorsFile& file);

}  // namespace fairway
