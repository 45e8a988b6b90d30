// fairway plan: what a training run would take on some number of GPUs, before there are any.

#include "fairway/plan/plan.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "commands.h"
#include "exchange_json.h"
#include "fairway/base/check.h"
#include "fairway/base/fields.h"
#include "fairway/io/atomic_file.h"
#include "fairway/model/weights.h"
#include "fairway/plan/flops.h"
#include "fairway/report/table.h"
#include "recipe_options.h"

namespace fairway {

namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

// As on the command line; Links has seconds and bytes.
struct Options {
  std::string recipe, gpus, json;
  std::vector<double> tokens_per_second;  // plain, looped
  double optimizer_ms = 0;
  double context = kMeanContext;
  int gpus_per_node = Links{}.ranks_per_node;
  double node_gbs = Links{}.node_bandwidth / 1e9, node_us = Links{}.node_latency * 1e6;
  double network_gbs = Links{}.network_bandwidth / 1e9, network_us = Links{}.network_latency * 1e6;
  double launch_us = Links{}.launch * 1e6;
};

constexpr double kMilli = 1e3, kMega = 1e-6, kMebi = 1 << 20;

// "8", "1,2,4", "1-8" (doubling: 1, 2, 4, 8), or several of these.
std::vector<int> parse_gpus(const std::string& text) {
  const auto number = [](const std::string& word) {
    const int64_t n = parse_int("--gpus", word);
    if (n < 1 || n > kMaxRanks) usage_fail("--gpus {}: must be between 1 and {}", n, kMaxRanks);
    return static_cast<int>(n);
  };
  std::vector<std::string> words;
  parse_field("--gpus", text, words);
  std::vector<int> out;
  for (const std::string& word : words) {
    const size_t dash = word.find('-', 1);
    if (dash == std::string::npos) {
      out.push_back(number(word));
      continue;
    }
    const int first = number(word.substr(0, dash)), last = number(word.substr(dash + 1));
    if (first > last) usage_fail("--gpus {}: the range runs backwards", word);
    for (int p = first; p < last; p *= 2) out.push_back(p);
    out.push_back(last);
  }
  if (out.empty()) usage_fail("--gpus: names no number of GPUs");
  return out;
}

PlanInputs inputs_of(const Options& o, const Recipe& recipe) {
  PlanInputs in;
  in.model = recipe.model;
  in.optim = recipe.optim;
  in.train = recipe.train;
  in.links = {.ranks_per_node = o.gpus_per_node,
              .node_bandwidth = o.node_gbs * 1e9,
              .node_latency = o.node_us * 1e-6,
              .network_bandwidth = o.network_gbs * 1e9,
              .network_latency = o.network_us * 1e-6,
              .launch = o.launch_us * 1e-6};
  if (!o.tokens_per_second.empty())
    in.speed = {o.tokens_per_second[0],
                o.tokens_per_second.size() > 1 ? o.tokens_per_second[1] : 0};
  else if (!computes_in_bfloat16(recipe.train))
    usage_fail(
        "{}: the figures that are built in are an H100's in bfloat16 and in float8; measure this "
        "machine with 'fairway bench step --no-loop', and give --tokens-per-second and "
        "--optimizer-ms",
        o.recipe);
  in.optimizer_seconds = o.optimizer_ms / kMilli;
  in.context = o.context;
  return in;
}

std::string fixed(double value, int digits) {
  return fmt::format("{:.{}f}", value, digits);
}
std::string grouped_count(int64_t n) {
  return grouped(static_cast<uint64_t>(n));
}

double tokens_per_second(const PlanInputs& in, const Plan& plan) {
  return plan.steps_per_second * static_cast<double>(in.train.batch_tokens);
}
int64_t run_tokens(const PlanInputs& in, const Plan& plan) {
  return plan.run.steps() * in.train.batch_tokens;
}
double efficiency(const Plan& plan, const Plan& one) {
  return plan.steps_per_second / (plan.ranks * one.steps_per_second);
}

// Flops of a token on one of the two routes.
Flops token_flops(const PlanInputs& in, bool looped) {
  return training_flops(Network(in.model, looped), 1, in.context_cut());
}

std::string speed_text(const PlanInputs& in) {
  if (!in.speed.is_measured()) return "--tokens-per-second says";
  return in.train.matmul_precision == MatmulPrecision::float8 ? "an H100 in float8"
                                                              : "an H100 in bfloat16";
}

std::string model_text(const Options& o, const PlanInputs& in) {
  Rows rows{
      {"flops a token, forward and backward", "visits", "products, M", "attention, M", "sum, M"}};
  for (const bool looped : {false, true}) {
    const Flops f = token_flops(in, looped);
    rows.push_back({looped ? "with looping" : "without looping",
                    std::to_string(Network(in.model, looped).slots()), fixed(f.products * kMega, 1),
                    fixed(f.attention * kMega, 1), fixed(f.total() * kMega, 1)});
  }
  return fmt::format(
      "{}: {:.2f} M parameters, {} tokens a step in {} micro-batches of {};\n"
      "a query meets {:.0f} keys on average; one GPU computes as fast as {}\n\n{}\n",
      o.recipe, static_cast<double>(num_params(in.model)) * kMega,
      grouped_count(in.train.batch_tokens), in.train.micro_steps,
      grouped_count(in.train.micro_batch_tokens()), in.context_cut(), speed_text(in),
      markdown_table(rows));
}

// All there is to say about one number of GPUs.
std::string detail_text(const Plan& plan) {
  Rows memory{{"memory of a GPU", "MiB"}};
  for (const auto& [name, bytes] : plan.memory)
    memory.push_back({name, fixed(static_cast<double>(bytes) / kMebi, 1)});
  memory.push_back({"sum", fixed(static_cast<double>(plan.memory_bytes()) / kMebi, 1)});

  Rows exchange{{"exchanged in a step", "how", "MB", "sent by a GPU, MB", "ms"}};
  plan.exchanges.for_each([&](const Exchange& e) {
    exchange.push_back({e.what, name_of(e.kind), fixed(e.bytes * kMega, 3),
                        fixed(e.sent * kMega, 3), fixed(e.seconds * kMilli, 3)});
  });
  exchange.push_back(
      {"sum", "", "", fixed(plan.bytes_sent() * kMega, 3), fixed(plan.plain.exchange * kMilli, 3)});

  const auto row = [&](const char* what, auto&& seconds) {
    return std::vector<std::string>{what, fixed(seconds(plan.plain) * kMilli, 2),
                                    fixed(seconds(plan.looped) * kMilli, 2)};
  };
  const Rows time{
      {"time of a step, ms", "without looping", "with looping"},
      row("forward and backward", [](const StepTime& t) { return t.compute; }),
      row("clipping, optimizer, moving average", [](const StepTime& t) { return t.optimizer; }),
      row("exchange", [](const StepTime& t) { return t.exchange; }),
      row("of it behind the optimizer", [](const StepTime& t) { return -t.hidden; }),
      row("sum", [](const StepTime& t) { return t.total(); })};
  std::string out = markdown_table(memory) + "\n";
  if (plan.ranks > 1) out += markdown_table(exchange) + "\n";
  return out + markdown_table(time) + "\n";
}

std::string summary_text(const PlanInputs& in, const std::vector<Plan>& plans, const Plan& one) {
  Rows rows{{"GPUs", "nodes", "micro-batches each", "GiB each", "MB sent", "ms plain", "ms looped",
             "ms exchange", "M tokens/s", "steps", "M tokens", "seconds", "efficiency"}};
  for (const Plan& p : plans)
    rows.push_back({std::to_string(p.ranks), std::to_string(p.nodes), std::to_string(p.rounds),
                    fixed(static_cast<double>(p.memory_bytes()) / kMebi / 1024, 2),
                    fixed(p.bytes_sent() * kMega, 1), fixed(p.plain.total() * kMilli, 2),
                    fixed(p.looped.total() * kMilli, 2),
                    fixed((p.plain.exchange - p.plain.hidden) * kMilli, 2),
                    fixed(tokens_per_second(in, p) * kMega, 3), grouped_count(p.run.steps()),
                    grouped_count(run_tokens(in, p) / 1'000'000), fixed(p.run.seconds, 1),
                    fixed(100 * efficiency(p, one), 1) + "%"});
  return markdown_table(rows) +
         "\nForetold, not measured (docs/scaling.md). Of a step's exchange, the table counts what "
         "hides behind nothing.\n";
}

Json time_json(const StepTime& t) {
  return {{"compute_seconds", t.compute},
          {"optimizer_seconds", t.optimizer},
          {"exchange_seconds", t.exchange},
          {"hidden_seconds", t.hidden},
          {"seconds", t.total()}};
}

Json plan_json(const PlanInputs& in, const Plan& plan, const Plan& one) {
  Json memory = Json::object(), exchanges = Json::array();
  for (const auto& [name, bytes] : plan.memory) memory[name] = bytes;
  plan.exchanges.for_each([&](const Exchange& e) { exchanges.push_back(exchange_json(e)); });
  return {{"gpus", plan.ranks},
          {"nodes", plan.nodes},
          {"micro_batches", plan.rounds},
          {"memory_bytes", plan.memory_bytes()},
          {"memory", memory},
          {"sent_bytes", plan.bytes_sent()},
          {"exchanges", exchanges},
          {"plain_step", time_json(plan.plain)},
          {"looped_step", time_json(plan.looped)},
          {"plain_steps", plan.run.plain_steps},
          {"looped_steps", plan.run.looped_steps},
          {"seconds", plan.run.seconds},
          {"tokens", run_tokens(in, plan)},
          {"tokens_per_second", tokens_per_second(in, plan)},
          {"efficiency", efficiency(plan, one)}};
}

Json flops_json(const Flops& f) {
  return {{"products", f.products}, {"attention", f.attention}};
}

void plan(const Options& o, const Recipe& recipe) {
  const std::vector<int> gpus = parse_gpus(o.gpus);
  const PlanInputs in = inputs_of(o, recipe);
  std::vector<Plan> plans;
  plans.reserve(gpus.size());
  for (const int p : gpus) plans.push_back(make_plan(in, p));
  const Plan one = make_plan(in, 1);

  if (!o.json.empty()) {
    Json list = Json::array();
    for (const Plan& p : plans) list.push_back(plan_json(in, p, one));
    const Json json = {{"parameters", num_params(in.model)},
                       {"batch_tokens", in.train.batch_tokens},
                       {"context", in.context_cut()},
                       {"flops_per_token",
                        {{"plain", flops_json(token_flops(in, false))},
                         {"looped", flops_json(token_flops(in, true))}}},
                       {"plans", list}};
    write_file(o.json, json.dump(2) + "\n");
  }
  fmt::print("{}", model_text(o, in));
  if (plans.size() == 1) fmt::print("{}", detail_text(plans.front()));
  fmt::print("{}", summary_text(in, plans, one));
}

}  // namespace

void add_plan(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "plan",
      "Foretell memory, exchange and time of training on many GPUs. Nothing is run: the model of "
      "docs/scaling.md,\nfilled with speeds measured elsewhere. What is not measured is on the "
      "careful side");
  add_recipe_options(*command, o->recipe);
  command
      ->add_option("--gpus", o->gpus,
                   "how many GPUs, at most 1024: 8, or 1,2,4, or 1-64, which doubles; for one "
                   "number, all details")
      ->required()
      ->type_name("P");
  command
      ->add_option("--tokens-per-second", o->tokens_per_second,
                   "of one GPU, forward and backward, on the recipe's micro-batch: without "
                   "looping, and with (default: by flops), as 'fairway bench step --no-loop' and "
                   "'fairway bench step' print them. Without this option: one H100's in the "
                   "recipe's precision, measured with the record's model (docs/performance.md)")
      ->delimiter(',')
      ->expected(1, 2)
      ->check(CLI::PositiveNumber)
      ->type_name("X[,Y]");
  command
      ->add_option("--optimizer-ms", o->optimizer_ms,
                   fmt::format("of one GPU alone: clipping, optimizer, moving average (default: "
                               "from an H100's {:.2f} for the record's model)",
                               kOptimizerSeconds * kMilli))
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--context", o->context,
                   "keys that a query meets on average, in documents not cut (585: FineWeb's)")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  const std::string links = "Links ('fairway bench exchange' measures yours; docs/scaling.md)";
  const auto link = [&](const char* name, double& value, const char* what) {
    command->add_option(name, value, what)
        ->capture_default_str()
        ->check(CLI::PositiveNumber)
        ->group(links);
  };
  command->add_option("--gpus-per-node", o->gpus_per_node, "GPUs that share a node")
      ->capture_default_str()
      ->check(CLI::Range(1, kMaxRanks))
      ->group(links);
  link("--node-gbs", o->node_gbs,
       "GB/s of a GPU inside a node, each way (NVLink 4 has 450, NCCL reaches 200 of them "
       "on 46 MB between two GPUs, up to 370 on gigabytes)");
  link("--node-us", o->node_us, "microseconds of a ring's step inside a node (NCCL's own model)");
  link("--network-gbs", o->network_gbs,
       "GB/s of a GPU's network adapter, each way (400 Gb/s InfiniBand: 46 to 48 reached)");
  link("--network-us", o->network_us, "microseconds of a ring's step between nodes (the same)");
  link("--launch-us", o->launch_us, "microseconds before a collective's first step (the same)");
  command->add_option("--json", o->json, "also write all figures to this file")->type_name("FILE");
  command->callback([o, command] { plan(*o, chosen_recipe(*command, o->recipe)); });
}

}  // namespace fairway
