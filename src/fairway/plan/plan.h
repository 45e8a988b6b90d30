// A training run on P ranks, foretold: memory, exchange, time (docs/scaling.md has the equations,
// and where each number comes from).
#pragma once

#include <cstdint>
#include <vector>

#include "fairway/model/config.h"
#include "fairway/optim/config.h"
#include "fairway/plan/exchange.h"
#include "fairway/plan/memory.h"
#include "fairway/plan/speed.h"
#include "fairway/train/config.h"

namespace fairway {

inline constexpr int kMaxRanks = 1024;

struct PlanInputs {
  ModelConfig model;
  OptimConfig optim;
  TrainConfig train;
  Links links;
  ComputeSpeed speed;
  double optimizer_seconds = 0;   // of the whole model on one rank; 0: measured_optimizer_seconds
  double context = kMeanContext;  // keys that a query meets on average, in documents not cut

  // The same in segments of at most max_doc_len.
  double context_cut() const;
};

// Seconds of one step. What hides behind what: reductions of later banks and of the embedding
// behind Muon on earlier banks, Muon on later banks behind the gathering of earlier ones. Nothing
// hides behind forward and backward passes: with clipping by rank the gradient's norm must be known
// before any of it is exchanged.
struct StepTime {
  double compute = 0;    // forward and backward passes of the rank with the most micro-batches
  double optimizer = 0;  // clipping, AdamW, moving average; Muon on the rank with the most matrices
  double exchange = 0;   // of all collectives, one after the other
  double hidden = 0;     // of exchange, behind Muon
  double total() const { return compute + optimizer + exchange - hidden; }
};

// The run that the recipe's schedule makes of these steps.
struct RunLength {
  int64_t plain_steps = 0, looped_steps = 0;
  double seconds = 0;
  int64_t steps() const { return plain_steps + looped_steps; }
};

struct Plan {
  int ranks = 1, nodes = 1;
  int rounds = 1;       // micro-batches that a rank runs in a step, one after the other
  MemoryByName memory;  // of rank 0
  StepExchanges exchanges;
  StepTime plain, looped;  // before and after looping switches on
  RunLength run;
  double steps_per_second = 0;  // average over the schedule

  int64_t memory_bytes() const;
  double bytes_sent() const;  // by each rank in a step
};

// How many steps the schedule takes when they last this long.
RunLength run_length(const TrainConfig& train, double plain_seconds, double looped_seconds);

// Throws UsageError if the recipe cannot be shared out over so many ranks. 1 ≤ ranks ≤ kMaxRanks.
Plan make_plan(const PlanInputs& inputs, int ranks);

}  // namespace fairway
