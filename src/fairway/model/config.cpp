#include "fairway/model/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "fairway/base/check.h"
#include "fairway/base/fields.h"

namespace fairway {

double ModelConfig::ln(int layer) const {
  return ln_scale ? 1.0 / std::sqrt(layer + 1.0) : 1.0;
}

void ModelConfig::validate() const {
  const auto at_least = [](const char* key, int64_t value, int64_t least) {
    if (value < least) usage_fail("[model] {} = {}: must be at least {}", key, value, least);
  };
  const auto at_most = [](const char* key, int64_t value, int64_t most) {
    if (value > most) usage_fail("[model] {} = {}: must be at most {}", key, value, most);
  };
  at_least("vocab_size", vocab_size, 1);
  at_most("vocab_size", vocab_size, 65536);  // shards hold uint16
  at_least("num_layers", num_layers, 1);
  at_most("num_layers", num_layers, 1024);
  at_least("model_dim", model_dim, 1);
  at_most("model_dim", model_dim, 65536);
  at_least("num_heads", num_heads, 1);
  at_least("num_kv_heads", num_kv_heads, 1);
  if (model_dim % num_heads != 0)
    usage_fail("[model] num_heads = {}: must divide model_dim = {}", num_heads, model_dim);
  if (num_heads % num_kv_heads != 0)
    usage_fail("[model] num_kv_heads = {}: must divide num_heads = {}", num_kv_heads, num_heads);
  if (!(mlp_mult > 0 && mlp_mult <= 1024))
    usage_fail("[model] mlp_mult = {}: must be positive, at most 1024", mlp_mult);
  at_least("mlp_mult · model_dim", mlp_dim(), 1);
  at_most("mlp_mult · model_dim", mlp_dim(), 1 << 18);  // quant/matrix_coder.cpp counts on it
  if (rope_dims < 0 || rotary_dims() > head_dim() || rotary_dims() % 2 != 0)
    usage_fail("[model] rope_dims = {}: must be even, at most the head width {} (0 = all, if even)",
               rope_dims, head_dim());
  if (!(rope_base > 1)) usage_fail("[model] rope_base = {}: must be above 1", rope_base);
  // Backward divides by the gain.
  if (qk_gain_init == 0 || !std::isfinite(qk_gain_init))
    usage_fail("[model] qk_gain_init = {}: must be finite and not 0", qk_gain_init);
  at_least("max_doc_len", max_doc_len, 1);
  if (!(logit_softcap > 0))
    usage_fail("[model] logit_softcap = {}: must be positive", logit_softcap);
  if (!(norm_eps >= 0)) usage_fail("[model] norm_eps = {}: must not be negative", norm_eps);
  if (xsa_last_n < 0 || xsa_last_n > num_layers)
    usage_fail("[model] xsa_last_n = {}: must be between 0 and num_layers = {}", xsa_last_n,
               num_layers);
  at_least("num_loops", num_loops, 0);
  at_most("num_loops", num_loops, 256);
  if (num_loops > 0 && !(0 <= loop_start && loop_start <= loop_end && loop_end < num_layers))
    usage_fail("[model] loop_start = {}, loop_end = {}: need 0 <= start <= end < num_layers = {}",
               loop_start, loop_end, num_layers);
  at_least("parallel_start_layer", parallel_start_layer, 0);
  // Once the lanes have forked, every later slot must be one of theirs.
  if (num_loops > 0 && loop_start < parallel_start_layer && parallel_start_layer <= loop_end)
    usage_fail("[model] parallel_start_layer = {}: must not lie inside the loop {}..{}",
               parallel_start_layer, loop_start, loop_end);
}

std::string to_json(const ModelConfig& config) {
  nlohmann::ordered_json json;
  ModelConfig::visit_fields(config, [&](const char* key, const auto& value, const char*) {
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (std::is_enum_v<T>)
      json[key] = std::string(enum_name(value));
    else
      json[key] = value;
  });
  return json.dump();
}

ModelConfig model_config_from_json(std::string_view text, const std::string& where) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  require(json.is_object(), "{}: the model configuration is not a JSON object", where);
  ModelConfig config;
  std::vector<std::string> keys;
  ModelConfig::visit_fields(config, [&](const char* key, auto& value, const char*) {
    using T = std::remove_cvref_t<decltype(value)>;
    keys.emplace_back(key);
    require(json.contains(key), "{}: model configuration lacks '{}'", where, key);
    const auto& j = json[key];
    if constexpr (std::is_same_v<T, bool>) {
      require(j.is_boolean(), "{}: model configuration: '{}' is not a boolean", where, key);
      value = j.template get<bool>();
    } else if constexpr (std::is_enum_v<T>) {
      require(j.is_string(), "{}: model configuration: '{}' is not a string", where, key);
      try {
        parse_field(key, j.template get<std::string>(), value);
      } catch (const UsageError& e) {
        fail("{}: model configuration: {}", where, e.what());
      }
    } else if constexpr (std::is_integral_v<T>) {
      require(j.is_number_integer() && j.template get<int64_t>() >= -(1 << 30) &&
                  j.template get<int64_t>() <= (1 << 30),
              "{}: model configuration: '{}' is not a sensible integer", where, key);
      value = j.template get<T>();
    } else {
      require(j.is_number(), "{}: model configuration: '{}' is not a number", where, key);
      value = j.template get<T>();
    }
  });
  for (auto& [key, value] : json.items())
    require(std::find(keys.begin(), keys.end(), key) != keys.end(),
            "{}: model configuration has an unknown key '{}'", where, key);
  try {
    config.validate();
  } catch (const UsageError& e) {
    fail("{}: impossible model: {}", where, e.what());
  }
  return config;
}

}  // namespace fairway
