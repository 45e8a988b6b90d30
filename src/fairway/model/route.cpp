#include "fairway/model/route.h"

#include <algorithm>

#include "fairway/model/weights.h"

namespace fairway {

namespace {

std::vector<int> layer_sequence(const ModelConfig& c, bool looped) {
  std::vector<int> sequence;
  for (int i = 0; i < c.num_layers; ++i) {
    sequence.push_back(i);
    if (looped && c.num_loops > 0 && i == c.loop_end)
      for (int pass = 0; pass < c.num_loops; ++pass)
        for (int j = c.loop_start; j <= c.loop_end; ++j) sequence.push_back(j);
  }
  return sequence;
}

}  // namespace

int num_skip_weights(const ModelConfig& config) {
  const int looped = config.num_loops > 0 ? config.loop_end - config.loop_start + 1 : 0;
  return (config.num_layers + config.num_loops * looped) / 2;
}

Route make_route(const ModelConfig& config, bool looped) {
  const auto sequence = layer_sequence(config, looped);
  const int slots = static_cast<int>(sequence.size()), encoder = slots / 2;
  const int num_skip = num_skip_weights(config);
  Route route;
  bool in_lanes = false;
  for (int s = 0; s < slots; ++s) {
    Visit v;
    v.layer = sequence[static_cast<size_t>(s)];
    v.xsa = v.layer >= config.num_layers - config.xsa_last_n;
    if (s >= encoder) {
      const int decoder_slot = s - encoder;
      // The stack holds the encoder's outputs; decoder slot k pops the k-th from the top.
      if (decoder_slot < num_skip && decoder_slot < encoder) {
        v.skip = decoder_slot;
        v.skip_from = encoder - 1 - decoder_slot;
      }
      if (config.parallel_start_layer > 0 && v.layer >= config.parallel_start_layer) {
        v.join = Join::parallel;
        v.first_parallel = !in_lanes;
        in_lanes = true;
      }
    }
    route.push_back(v);
  }
  return route;
}

}  // namespace fairway
