#include "fairway/plan/exchange.h"

#include <algorithm>

#include "fairway/model/weights.h"

namespace fairway {

namespace {

// Times that a ring passes every part of the tensor on to every rank.
int rounds(Collective kind) {
  return kind == Collective::all_reduce ? 2 : 1;
}

}  // namespace

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::reduce_scatter:
      return "reduce-scatter";
    case Collective::all_gather:
      return "all-gather";
    case Collective::all_reduce:
      break;
  }
  return "all-reduce";
}

int Links::nodes(int ranks) const {
  return (ranks + ranks_per_node - 1) / ranks_per_node;
}

double bytes_sent(Collective kind, double bytes, int ranks) {
  return rounds(kind) * bytes * (ranks - 1) / ranks;
}

double exchange_seconds(const Links& links, Collective kind, double bytes, int ranks) {
  if (ranks == 1) return 0;
  const int nodes = links.nodes(ranks);
  // Everything that a ring carries crosses from each node to the next; the adapters of all of the
  // node's ranks share that. The emptiest node has the fewest.
  const int adapters = ranks / nodes;
  const double bandwidth = nodes == 1
                               ? links.node_bandwidth
                               : std::min(links.node_bandwidth, adapters * links.network_bandwidth);
  const double latency = (ranks - nodes) * links.node_latency + (nodes - 1) * links.network_latency;
  return links.launch + rounds(kind) * latency + bytes_sent(kind, bytes, ranks) / bandwidth;
}

StepExchanges step_exchanges(const ModelConfig& model, ClipMode clip, const Links& links,
                             int ranks) {
  StepExchanges out;
  if (ranks == 1) return out;
  const auto exchange = [&](std::string what, Collective kind, int64_t elements) {
    const double bytes = static_cast<double>(elements) * sizeof(float);
    return Exchange{std::move(what), kind, bytes, bytes_sent(kind, bytes, ranks),
                    exchange_seconds(links, kind, bytes, ranks)};
  };
  for_each(weights_view<float>(model, nullptr),
           [&](const std::string& name, ParamGroup group, Tensor<float> w) {
             if (group != ParamGroup::bank) return;
             out.reduce_banks.push_back(exchange(name, Collective::reduce_scatter, w.size()));
             out.gather_banks.push_back(exchange(name, Collective::all_gather, w.size()));
           });
  out.reduce_rest = exchange("embedding, head, vectors", Collective::all_reduce,
                             flat_size(model) - bank_size(model));
  for (const char* what : {"loss, norm", "clock"})
    out.agree.push_back(exchange(what, Collective::all_reduce, 4));
  if (clip == ClipMode::global)
    out.agree.push_back(exchange("norm of the mean", Collective::all_reduce, 2));
  return out;
}

}  // namespace fairway
