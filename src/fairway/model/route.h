// The route is the tape: the network's loops, skips and lanes as data. `forward` walks the visits
// in order, `backward` walks them in reverse.
#pragma once

#include <vector>

#include "fairway/model/config.h"

namespace fairway {

enum class Join { serial, parallel };

struct Visit {
  int layer = 0;
  Join join = Join::serial;
  bool first_parallel = false;  // the lanes fork here: lane0 = lane1 = x
  int skip = -1;                // row of skip_weights/skip_gates mixed in before the block, or -1
  int skip_from = -1;           // the visit whose output that skip connection carries
  bool xsa = false;
};

using Route = std::vector<Visit>;

// L visits, or with `looped` (and num_loops > 0) the sequence with layers loop_start…loop_end run
// num_loops + 1 times. SPEC §3, "Slots".
Route make_route(const ModelConfig& config, bool looped);

}  // namespace fairway
