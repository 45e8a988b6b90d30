#include "fairway/model/weights.h"

#include <algorithm>
#include <complex>
#include <set>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/io/safetensors.h"
#include "fairway/model/route.h"

namespace fairway {

namespace {
// Calls f(member, shape) in flat order.
template <class T, class F>
void lay_out(const ModelConfig& c, Weights<T>& w, F&& f) {
  const int64_t L = c.num_layers, D = c.model_dim, F_ = c.mlp_dim(), V = c.vocab_size;
  const int64_t skips = num_skip_weights(c);
  f(w.qo_bank, Shape{2 * L, D, D});
  f(w.kv_bank, Shape{2 * L, c.kv_dim(), D});
  f(w.mlp_up_bank, Shape{L, F_, D});
  f(w.mlp_down_bank, Shape{L, D, F_});
  f(w.tok_emb, Shape{V, D});
  if (!c.tie_embeddings) f(w.lm_head, Shape{V, D});
  f(w.q_gain, Shape{L, c.num_heads});
  f(w.attn_scale, Shape{L, D});
  f(w.mlp_scale, Shape{L, D});
  f(w.resid_mix, Shape{L, 2, D});
  f(w.skip_weights, Shape{skips, D});
  if (c.skip_gates) f(w.skip_gates, Shape{skips, D});
  f(w.parallel_post_lambdas, Shape{L, 2, 2});
  f(w.parallel_resid_lambdas, Shape{L, 2});
}

}  // namespace

int64_t flat_size(const ModelConfig& config) {
  Weights<float> w;
  int64_t n = 0;
  lay_out(config, w, [&](auto&, Shape s) { n += flat_aligned(s.size()); });
  return n;
}

int64_t bank_size(const ModelConfig& config) {
  Weights<float> w;
  int64_t n = 0, banks = 0;
  lay_out(config, w, [&](auto& tensor, Shape s) {
    if (&tensor == &w.tok_emb) banks = n;
    n += flat_aligned(s.size());
  });
  return banks;
}

int64_t matrices_size(const ModelConfig& config) {
  Weights<float> w;
  int64_t n = 0, matrices = 0;
  lay_out(config, w, [&](auto& tensor, Shape s) {
    if (&tensor == &w.q_gain) matrices = n;
    n += flat_aligned(s.size());
  });
  return matrices;
}

int64_t num_params(const ModelConfig& config) {
  Weights<float> w;
  int64_t n = 0;
  lay_out(config, w, [&](auto&, Shape s) { n += s.size(); });
  return n;
}

template <class T>
Weights<T> weights_view(const ModelConfig& config, T* matrices, Accum<T>* vectors) {
  Weights<T> w;
  int64_t offset = 0;
  const int64_t first_vector = matrices_size(config);
  lay_out(config, w, [&]<class U>(Tensor<U>& t, Shape s) {
    U* base = nullptr;
    if constexpr (std::is_same_v<T, Accum<T>>)
      base = offset < first_vector ? matrices : vectors;
    else if constexpr (std::is_same_v<U, T>)
      base = matrices;
    else
      base = vectors;
    t = {base ? base + offset : nullptr, s};
    offset += flat_aligned(s.size());
  });
  return w;
}

template Weights<float> weights_view(const ModelConfig&, float*, Accum<float>*);
template Weights<const float> weights_view(const ModelConfig&, const float*, Accum<const float>*);
template Weights<double> weights_view(const ModelConfig&, double*, Accum<double>*);
template Weights<const double> weights_view(const ModelConfig&, const double*,
                                            Accum<const double>*);
template Weights<std::complex<double>> weights_view(const ModelConfig&, std::complex<double>*,
                                                    Accum<std::complex<double>>*);
template Weights<const std::complex<double>> weights_view(const ModelConfig&,
                                                          const std::complex<double>*,
                                                          Accum<const std::complex<double>>*);
template Weights<bf16> weights_view(const ModelConfig&, bf16*, Accum<bf16>*);
template Weights<const bf16> weights_view(const ModelConfig&, const bf16*, Accum<const bf16>*);

void save_model(const std::filesystem::path& path, const ModelConfig& config, const float* flat) {
  std::vector<SafetensorsTensor> tensors;
  for_each_named(weights_view(config, flat), [&](const std::string& name, Tensor<const float> t) {
    tensors.push_back({name,
                       Dtype::f32,
                       {t.shape.extent.begin(), t.shape.extent.begin() + t.shape.rank},
                       std::as_bytes(std::span(t.data, static_cast<size_t>(t.size())))});
  });
  write_safetensors(path, tensors, {{"config", to_json(config)}});
}

LoadedModel load_model(const std::filesystem::path& path) {
  return load_model(SafetensorsFile(path));
}

LoadedModel load_model(const SafetensorsFile& file) {
  const std::filesystem::path& path = file.path();
  const auto config = file.metadata().find("config");
  require(config != file.metadata().end(), "{}: not a Fairway model: its metadata has no 'config'",
          path.string());
  LoadedModel model;
  model.config = model_config_from_json(config->second, path.string());
  // The file must hold what the configuration asks for, of two bytes or four, before memory of that
  // size is taken.
  uint64_t bytes = 0;
  for (const auto& [name, entry] : file.entries()) bytes += entry.bytes.size();
  require(2 * static_cast<uint64_t>(num_params(model.config)) <= bytes,
          "{}: holds {} bytes of tensors, its configuration describes {} parameters", path.string(),
          bytes, num_params(model.config));
  model.flat.assign(static_cast<size_t>(flat_size(model.config)), 0.0f);
  std::set<std::string> expected;
  for_each_named(weights_view(model.config, model.flat.data()),
                 [&](const std::string& name, Tensor<float> t) {
                   expected.insert(name);
                   file.read_into(name, t);
                 });
  for (const auto& [name, entry] : file.entries())
    require(expected.count(name) != 0, "{}: unexpected tensor '{}'", path.string(), name);
  return model;
}

}  // namespace fairway
