#include "fairway/plan/plan.h"

#include <algorithm>
#include <cmath>

#include "fairway/base/check.h"
#include "fairway/optim/sharding.h"

namespace fairway {

namespace {

double sum_seconds(const std::vector<Exchange>& list) {
  double sum = 0;
  for (const Exchange& e : list) sum += e.seconds;
  return sum;
}

// From the end of the backward passes, without what every rank does for itself: the links carry one
// collective at a time, in the order of StepExchanges, and Muon takes the banks in turn.
double exchange_and_muon(const StepExchanges& exchanges, const std::vector<double>& muon,
                         bool norm_first) {
  double links = 0, rank = 0;
  std::vector<double> reduced, updated;
  for (const Exchange& e : exchanges.reduce_banks) reduced.push_back(links += e.seconds);
  links += exchanges.reduce_rest.seconds;
  // Clipping the mean gradient: its norm is known when everything has been reduced.
  if (norm_first) rank = links += sum_seconds(exchanges.agree);
  for (size_t bank = 0; bank < muon.size(); ++bank) {
    if (!reduced.empty()) rank = std::max(rank, reduced[bank]);
    updated.push_back(rank += muon[bank]);
  }
  for (size_t bank = 0; bank < exchanges.gather_banks.size(); ++bank)
    links = std::max(links, updated[bank]) + exchanges.gather_banks[bank].seconds;
  if (!norm_first) links += sum_seconds(exchanges.agree);
  return std::max(links, rank);
}

StepTime step_time(const PlanInputs& in, const Plan& plan, bool looped) {
  StepTime t;
  t.compute = plan.rounds * in.speed.seconds(in.model, in.train.matmul_precision, looped,
                                             static_cast<double>(in.train.micro_batch_tokens()),
                                             in.context_cut());

  const OptimizerWork work = optimizer_work(in.model, in.optim.newton_schulz_steps);
  const double whole =
      in.optimizer_seconds > 0 ? in.optimizer_seconds : measured_optimizer_seconds(work);
  std::vector<double> muon;
  double all_muon = 0;
  for (const BankSlice& bank : Shard(in.model, 0, plan.ranks).banks) {
    muon.push_back(whole * work.banks[muon.size()] / work.total() *
                   static_cast<double>(bank.count) / static_cast<double>(bank.matrices));
    all_muon += muon.back();
  }
  t.optimizer = whole * work.rest / work.total() + all_muon;
  plan.exchanges.for_each([&](const Exchange& e) { t.exchange += e.seconds; });
  t.hidden = t.exchange + all_muon -
             exchange_and_muon(plan.exchanges, muon, in.optim.clip_mode == ClipMode::global);
  return t;
}

}  // namespace

double PlanInputs::context_cut() const {
  return std::min(context, (model.max_doc_len + 1) / 2.0);
}

int64_t Plan::memory_bytes() const {
  int64_t sum = 0;
  for (const auto& [name, bytes] : memory) sum += bytes;
  return sum;
}

double Plan::bytes_sent() const {
  double sum = 0;
  exchanges.for_each([&](const Exchange& e) { sum += e.sent; });
  return sum;
}

RunLength run_length(const TrainConfig& train, double plain_seconds, double looped_seconds) {
  RunLength run;
  // A step is plain if progress is below loop_at when it begins; the last one begins below 1.
  const auto begun = [](double until, double each) {
    return static_cast<int64_t>(std::ceil(std::max(until, 0.0) / each));
  };
  const double loop_at = std::min(train.loop_at, 1.0);
  if (train.max_seconds > 0) {
    const double cap = train.max_seconds - train.reserve_seconds;
    run.plain_steps = std::min(train.steps, begun(loop_at * cap, plain_seconds));
    const double left = cap - static_cast<double>(run.plain_steps) * plain_seconds;
    run.looped_steps = std::min(train.steps - run.plain_steps, begun(left, looped_seconds));
  } else {
    run.plain_steps = begun(loop_at * static_cast<double>(train.steps), 1);
    run.looped_steps = train.steps - run.plain_steps;
  }
  run.seconds = static_cast<double>(run.plain_steps) * plain_seconds +
                static_cast<double>(run.looped_steps) * looped_seconds;
  return run;
}

Plan make_plan(const PlanInputs& in, int ranks) {
  check(ranks >= 1 && ranks <= kMaxRanks, "make_plan: ranks");
  if (ranks > in.train.micro_steps)
    usage_fail(
        "[train] micro_steps = {}: a step of so many micro-batches cannot be shared out over {} "
        "ranks; raise train.micro_steps to a multiple of {}",
        in.train.micro_steps, ranks, ranks);
  Plan plan;
  plan.ranks = ranks;
  plan.nodes = in.links.nodes(ranks);
  plan.rounds = (in.train.micro_steps + ranks - 1) / ranks;
  plan.memory = rank_memory(in.model, in.train, ranks);
  plan.exchanges = step_exchanges(in.model, in.optim.clip_mode, in.links, ranks);
  plan.plain = step_time(in, plan, false);
  plan.looped = step_time(in, plan, true);
  plan.run = run_length(in.train, plan.plain.total(), plan.looped.total());
  plan.steps_per_second = static_cast<double>(plan.run.steps()) / plan.run.seconds;
  return plan;
}

}  // namespace fairway
