// What the ranks exchange in one training step, and how long links take for it (docs/scaling.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fairway/model/config.h"
#include "fairway/optim/config.h"

namespace fairway {

// The links between ranks; bandwidths in bytes a second and one direction, latencies in seconds.
// The bandwidth inside a node is what two H200s reached on a step's exchanges, the other defaults
// are published figures of H100s (docs/scaling.md has the sources).
struct Links {
  int ranks_per_node = 8;
  double node_bandwidth = 200e9;    // of a rank, inside a node: NVLink
  double node_latency = 3.4e-6;     // of one step of a ring, inside a node
  double network_bandwidth = 46e9;  // of a rank's network adapter: 400 Gb/s InfiniBand
  double network_latency = 14e-6;   // of one step of a ring, between nodes
  double launch = 8.4e-6;           // of a collective, before its first step

  // Nodes that `ranks` ranks are spread over evenly.
  int nodes(int ranks) const;
};

enum class Collective { reduce_scatter, all_gather, all_reduce };
const char* name_of(Collective kind);  // "reduce-scatter"

// One collective of a step. As rings do it: a reduce-scatter or all-gather of n bytes takes P − 1
// steps in which each rank sends n/P bytes, an all-reduce is one of each.
struct Exchange {
  std::string what;
  Collective kind = Collective::all_reduce;
  double bytes = 0;    // of the tensor
  double sent = 0;     // by each rank, and received
  double seconds = 0;  // alone on the links
};

double bytes_sent(Collective kind, double bytes, int ranks);
double exchange_seconds(const Links& links, Collective kind, double bytes, int ranks);

// What a step exchanges (SPEC §4): the gradients of each matrix bank are reduce-scattered, all
// others (one contiguous run) all-reduced; each updated bank is all-gathered. Loss and clock are
// agreed on, and the norm of the mean gradient where that is clipped. Nothing for one rank.
struct StepExchanges {
  std::vector<Exchange> reduce_banks;  // one a bank, in flat order
  Exchange reduce_rest;
  std::vector<Exchange> gather_banks;  // one a bank
  std::vector<Exchange> agree;

  // f(exchange) for each.
  template <class F>
  void for_each(F&& f) const {
    if (reduce_banks.empty()) return;
    for (const Exchange& e : reduce_banks) f(e);
    f(reduce_rest);
    for (const Exchange& e : gather_banks) f(e);
    for (const Exchange& e : agree) f(e);
  }
};
StepExchanges step_exchanges(const ModelConfig& model, ClipMode clip, const Links& links,
                             int ranks);

}  // namespace fairway
