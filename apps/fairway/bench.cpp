// fairway bench step|ops|ttt|quantize|checkpoint|exchange|data

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint.h"
#include "commands.h"
#include "exchange.h"
#include "exchange_json.h"
#include "fairway/base/fields.h"
#include "fairway/comm/rank_device.h"
#include "fairway/io/atomic_file.h"
#include "fairway/report/table.h"
#include "ops.h"
#include "quantize.h"
#include "recipe_options.h"
#include "step.h"
#include "step_gpu.h"
#include "ttt.h"

namespace fairway {

namespace {

using Json = nlohmann::ordered_json;

// Of all parts but data; each has those that it uses.
struct Options {
  std::string recipe, json, device = "auto", precision = "auto";
  int threads = 0;
  int64_t tokens = 0;  // 0: as many as suit the device
  int steps = 0, batches = 0;
  bool no_loop = false, no_graphs = false;
  bool memory = false;
  int64_t doc_tokens = 512, documents = 2;
  int checkpoints = 3;
  std::string out = ".";
};

// The recipe's model, or the record's.
Recipe recipe_of(const Options& o) {
  return o.recipe.empty() ? Recipe{} : read_recipe(o.recipe, {});
}

DeviceChoice device_of(const Options& o) {
  DeviceChoice choice{.threads = o.threads};
  parse_field("--device", o.device, choice.kind);
  parse_field("--matmul-precision", o.precision, choice.precision);
  choice.kind = resolve(choice.kind);
  return choice;
}
bool on_gpu(const Options& o) {
  return device_of(o).kind == DeviceKind::cuda;
}
int64_t tokens_of(const Options& o) {
  return o.tokens > 0 ? o.tokens : pass_tokens(device_of(o));
}
// What products read their inputs in.
std::string_view products_in(const Options& o) {
  const DeviceChoice choice = device_of(o);
  if (choice.precision != MatmulPrecision::automatic) return enum_name(choice.precision);
  return choice.kind == DeviceKind::cuda ? "bfloat16" : "float32";
}

// The same, and for float8 also what the products outside of the MLP read.
std::string all_products_in(const Options& o) {
  if (device_of(o).precision != MatmulPrecision::float8) return std::string(products_in(o));
  return on_gpu(o) ? "bfloat16, the MLP's float8" : "float32, the MLP's rounded to float8";
}

void keep(const Options& o, const Json& json) {
  if (!o.json.empty()) write_file(o.json, json.dump(2) + "\n");
}

constexpr double kGiga = 1e9, kMebi = 1 << 20;

void cpu_step(const Options& o) {
  const auto f = bench::bench_step({.model = recipe_of(o).model,
                                    .tokens = tokens_of(o),
                                    .steps = o.steps > 0 ? o.steps : 3,
                                    .looped = !o.no_loop,
                                    .threads = o.threads,
                                    .precision = device_of(o).precision});
  fmt::print(
      "{} tokens, {} visits, {} threads, {}\n"
      "forward and backward  {:.3f} s, {:.0f} tokens/s\n"
      "optimizer             {:.3f} s\n"
      "in matrix products    {:.1f}% of the threads' time\n"
      "their rate            {:.1f} GFLOP/s, {:.1f}% of oneDNN's {:.1f} on the same products\n"
      "buffers               {:.0f} MiB; peak of the process {:.0f} MiB\n",
      tokens_of(o), f.visits, f.threads, products_in(o), f.micro_seconds, f.tokens_per_second,
      f.optimizer_seconds, 100 * f.product_share, f.product_rate / kGiga,
      100 * f.product_rate / f.onednn_rate, f.onednn_rate / kGiga, f.buffers / kMebi,
      f.peak_memory / kMebi);
  if (o.memory) fmt::print("{}", f.memory_report);
  keep(o, {{"tokens", tokens_of(o)},
           {"visits", f.visits},
           {"threads", f.threads},
           {"matmul_precision", products_in(o)},
           {"micro_seconds", f.micro_seconds},
           {"tokens_per_second", f.tokens_per_second},
           {"optimizer_seconds", f.optimizer_seconds},
           {"product_share", f.product_share},
           {"product_flops_per_second", f.product_rate},
           {"onednn_flops_per_second", f.onednn_rate},
           {"buffer_bytes", f.buffers},
           {"peak_memory_bytes", f.peak_memory}});
}

#if FAIRWAY_WITH_CUDA
void gpu_step(const Options& o, ProcessGroup& group) {
  const MatmulPrecision precision = device_of(o).precision;
  if (precision == MatmulPrecision::float32)
    usage_fail("--matmul-precision {}: on a GPU 'bench step' measures bfloat16 or float8",
               o.precision);
  const auto f = bench::bench_step_gpu({.model = recipe_of(o).model,
                                        .tokens = tokens_of(o),
                                        .steps = o.steps > 0 ? o.steps : 20,
                                        .looped = !o.no_loop,
                                        .precision = precision,
                                        .graphs = !o.no_graphs,
                                        .group = &group});
  if (!group.root()) return;
  const double flops = f.product_flops + f.attention_flops;
  const double floor = flops / f.matmul_rate;
  fmt::print(
      "{}{}: {} tokens, {} visits, {}\n"
      "ceilings              products {:.0f} TFLOP/s, copy {:.0f} GB/s\n"
      "step                  {:.2f} ms, {:.3f} M tokens/s\n"
      "useful products       {:.1f} TFLOP/s, {:.1f}% of the ceiling ({:.2f} ms at it)\n"
      "clip, optimizer, EMA  {:.2f} ms\n"
      "memory                {:.1f} GiB\n"
      "to the first step     {:.1f} s\n",
      group.size() > 1 ? fmt::format("{} ranks, each ", group.size()) : "", f.device, tokens_of(o),
      f.visits, precision == MatmulPrecision::float8 ? "bf16, the MLP float8" : "bf16",
      f.matmul_rate / 1e12, f.bandwidth / kGiga, 1e3 * f.step_seconds, 1e-6 * f.tokens_per_second,
      flops / f.step_seconds / 1e12, 100 * floor / f.step_seconds, 1e3 * floor,
      1e3 * f.optimizer_seconds, f.memory / kMebi / 1024, f.start_seconds);
  if (o.memory) fmt::print("{}", f.memory_report);
  keep(o, {{"device", f.device},
           {"ranks", group.size()},
           {"tokens", tokens_of(o)},
           {"visits", f.visits},
           {"matmul_precision", products_in(o)},
           {"step_seconds", f.step_seconds},
           {"tokens_per_second", f.tokens_per_second},
           {"optimizer_seconds", f.optimizer_seconds},
           {"product_flops", f.product_flops},
           {"attention_flops", f.attention_flops},
           {"product_flops_per_second_ceiling", f.matmul_rate},
           {"copy_bytes_per_second_ceiling", f.bandwidth},
           {"memory_bytes", f.memory},
           {"start_seconds", f.start_seconds},
           {"loss", f.loss}});
}
#endif

void step(const Options& o, ProcessGroup& group) {
#if FAIRWAY_WITH_CUDA
  if (on_gpu(o)) return gpu_step(o, group);
#endif
  if (group.size() > 1)
    usage_fail("'fairway bench step' on CPUs runs as one process: start it without mpirun or srun");
  cpu_step(o);
}

void ops(const Options& o) {
  refuse_float8(device_of(o).precision);
  const auto f = bench::bench_ops(
      {.model = recipe_of(o).model, .tokens = tokens_of(o), .device = device_of(o)});
  fmt::print("ceilings: copy {:.1f} GB/s, matrix products {:.1f} GFLOP/s ({})\n\n",
             f.bandwidth / kGiga, f.rate / kGiga, on_gpu(o) ? "bfloat16" : products_in(o));
  fmt::print("{:32} {:>9} {:>9} {:>9} {:>9} {:>7}\n", "op", "ms", "GB/s", "GFLOP/s", "floor ms",
             "of it");
  Json list = Json::array();
  for (const auto& op : f.ops) {
    fmt::print("{:32} {:9.3f} {:9.1f} {:9.1f} {:9.3f} {:6.0f}%\n", op.name, 1e3 * op.seconds,
               op.bytes / op.seconds / kGiga, op.flops / op.seconds / kGiga, 1e3 * op.floor,
               100 * op.floor / op.seconds);
    list.push_back({{"op", op.name},
                    {"seconds", op.seconds},
                    {"bytes", op.bytes},
                    {"flops", op.flops},
                    {"floor_seconds", op.floor}});
  }
  keep(o, {{"tokens", tokens_of(o)},
           {"copy_bytes_per_second", f.bandwidth},
           {"product_flops_per_second", f.rate},
           {"ops", list}});
}

void ttt(const Options& o) {
  const Recipe recipe = recipe_of(o);
  const auto f = bench::bench_ttt({.model = recipe.model,
                                   .ttt = recipe.ttt,
                                   .doc_tokens = o.doc_tokens,
                                   .documents = o.documents,
                                   .pass_tokens = o.tokens,
                                   .graphs = !o.no_graphs,
                                   .device = device_of(o)});
  fmt::print(
      "{} documents of {} tokens, rank {}, chunks of {}; {}, {}\n"
      "{:.0f} window tokens/s, {:.1f} targets/s{}\n",
      o.documents, o.doc_tokens, recipe.ttt.rank, recipe.ttt.chunk_size, f.device,
      all_products_in(o), f.window_tokens / f.seconds, f.scored / f.seconds,
      on_gpu(o) ? ""
                : fmt::format(", {:.1f}% of the threads' time in matrix products",
                              100 * f.product_share));
  keep(o, {{"device", f.device},
           {"matmul_precision", products_in(o)},
           {"window_tokens_per_second", f.window_tokens / f.seconds},
           {"targets_per_second", f.scored / f.seconds},
           {"seconds", f.seconds},
           {"product_share", f.product_share}});
}

void quantize(const Options& o) {
  refuse_float8(device_of(o).precision);
  const Recipe recipe = recipe_of(o);
  const auto f = bench::bench_quantize({.model = recipe.model,
                                        .quant = recipe.quant,
                                        .tokens = tokens_of(o),
                                        .batches = o.batches > 0 ? o.batches
                                                   : on_gpu(o)   ? 64
                                                                 : 1,
                                        .device = device_of(o)});
  fmt::print(
      "Hessians  {:.2f} s for {:.0f} tokens, {:.0f} tokens/s, their products {:.2f} TFLOP/s ({}, "
      "{})\n"
      "GPTQ      {:.2f} s ({} threads)\n"
      "coding    {:.2f} s, {:.0f} bytes\n",
      f.hessian_seconds, f.tokens, f.tokens / f.hessian_seconds,
      f.hessian_flops / f.hessian_seconds / 1e12, f.device, products_in(o), f.gptq_seconds,
      f.threads, f.coding_seconds, f.artifact_bytes);
  keep(o, {{"device", f.device},
           {"matmul_precision", products_in(o)},
           {"threads", f.threads},
           {"tokens", f.tokens},
           {"hessian_seconds", f.hessian_seconds},
           {"hessian_tokens_per_second", f.tokens / f.hessian_seconds},
           {"hessian_flops_per_second", f.hessian_flops / f.hessian_seconds},
           {"gptq_seconds", f.gptq_seconds},
           {"coding_seconds", f.coding_seconds},
           {"artifact_bytes", f.artifact_bytes}});
}

void checkpoint(const Options& o, ProcessGroup& group) {
  const auto f = bench::bench_checkpoint({.model = recipe_of(o).model,
                                          .tokens = tokens_of(o),
                                          .checkpoints = o.checkpoints,
                                          .device = for_rank(device_of(o), group),
                                          .group = &group,
                                          .directory = o.out});
  if (!group.root()) return;
  const double cost = f.held_seconds + std::max(f.slowed_seconds, 0.0);
  fmt::print(
      "checkpoint of {:.0f} MiB, steps of {} tokens in {:.3f} s\n"
      "training held up  {:.3f} s (first: {:.3f} s)\n"
      "steps beside it   {:.3f} s longer, in all\n"
      "written           in {:.2f} s, {:.2f} s of a processor, with no training beside it\n"
      "one a minute      costs {:.2f}% of the time\n",
      f.bytes / kMebi, tokens_of(o), f.step_seconds, f.held_seconds, f.first_seconds,
      f.slowed_seconds, f.write_seconds, f.write_cpu, 100 * cost / 60);
  keep(o, {{"bytes", f.bytes},
           {"step_seconds", f.step_seconds},
           {"held_seconds", f.held_seconds},
           {"first_held_seconds", f.first_seconds},
           {"slowed_seconds", f.slowed_seconds},
           {"write_seconds", f.write_seconds},
           {"write_cpu_seconds", f.write_cpu}});
}

void exchange(const Options& o, ProcessGroup& group) {
  if (group.size() == 1)
    usage_fail(
        "'fairway bench exchange' measures what ranks say to one another: start it with mpirun or "
        "srun{}",
        launch_hint(group));
  const auto f = bench::bench_exchange(
      {.model = recipe_of(o).model, .device = for_rank(device_of(o), group), .group = &group});
  if (!group.root()) return;
  std::vector<std::vector<std::string>> rows{{"what", "how", "MB", "sent, MB", "ms", "GB/s sent"}};
  Json list = Json::array();
  double sum = 0;
  const auto add = [&](const Exchange& e) {
    rows.push_back({e.what, name_of(e.kind), fmt::format("{:.3f}", e.bytes * 1e-6),
                    fmt::format("{:.3f}", e.sent * 1e-6), fmt::format("{:.3f}", e.seconds * 1e3),
                    fmt::format("{:.1f}", e.sent / e.seconds / kGiga)});
    list.push_back(exchange_json(e));
  };
  for (const Exchange& e : f.of_step) add(e), sum += e.seconds;
  for (const Exchange& e : f.by_size) add(e);
  fmt::print(
      "{} ranks, {} on this host, each {}\n\n{}\n"
      "a step's, one by one  {:.3f} ms\n"
      "all at once           {:.3f} ms\n"
      "as one ring           fairway plan --gpus-per-node {} --node-gbs {:.3g} --node-us {:.1f} "
      "--launch-us {:.1f} --gpus {} --recipe {}\n",
      group.size(), group.local_size(), f.device, markdown_table(rows), 1e3 * sum,
      1e3 * f.step_seconds, f.links.ranks_per_node, f.links.node_bandwidth / kGiga,
      1e6 * f.links.node_latency, 1e6 * f.links.launch, group.size(),
      o.recipe.empty() ? "recipes/record.toml" : o.recipe);
  keep(o, {{"device", f.device},
           {"ranks", group.size()},
           {"exchanges", list},
           {"step_seconds", f.step_seconds},
           {"bandwidth_bytes_per_second", f.links.node_bandwidth},
           {"latency_seconds", f.links.node_latency},
           {"launch_seconds", f.links.launch}});
}

// A part in which nothing is computed.
CLI::App* add_bare_part(CLI::App& bench, const char* name, const char* what,
                        const std::shared_ptr<Options>& o) {
  CLI::App* command = bench.add_subcommand(name, what);
  command
      ->add_option("--recipe", o->recipe, "Take the model from this recipe (default: the record)")
      ->type_name("R.toml");
  command->add_option("--device", o->device, "auto (a GPU where there is one), cpu or cuda")
      ->capture_default_str();
  command->add_option("--threads", o->threads, "CPU threads (0: one per core)")
      ->capture_default_str();
  command->add_option("--json", o->json, "Also write the figures to this file")->type_name("FILE");
  return command;
}

CLI::App* add_part(CLI::App& bench, const char* name, const char* what,
                   const std::shared_ptr<Options>& o) {
  CLI::App* command = add_bare_part(bench, name, what, o);
  command
      ->add_option(
          "--tokens", o->tokens,
          "Tokens of one packed buffer (default: 4096 on a CPU; on a GPU 98304 in bfloat16, "
          "49152 in float32, and in 'ttt' up to four times as many, as memory allows)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--matmul-precision", o->precision,
                   "Inputs of products: float32, bfloat16, auto (bfloat16 on a GPU), or float8 (of "
                   "the MLP, in 'step' and 'ttt')")
      ->capture_default_str();
  return command;
}

void add_no_graphs(CLI::App& command, Options& o) {
  command.add_flag("--no-graphs", o.no_graphs,
                   "On a GPU: launch every kernel by itself, for comparison with CUDA graphs");
}

}  // namespace

void add_bench(CLI::App& app, ProcessGroup& group) {
  CLI::App* bench = app.add_subcommand(
      "bench", "Measures the program's speed as a fraction of what this machine can do");
  bench->require_subcommand(1);

  auto o = std::make_shared<Options>();
  CLI::App* part = add_part(*bench, "step",
                            "One training step: tokens/s, the share of it in matrix products, and "
                            "their rate against\noneDNN's own on the same shapes. Under mpirun: "
                            "a step of several GPUs, each with --tokens tokens",
                            o);
  part->add_option("--steps", o->steps,
                   "Timed steps; the median counts (default: 3 on a CPU, 20 on a GPU)")
      ->check(CLI::PositiveNumber);
  part->add_flag("--no-loop", o->no_loop, "The route before looping switches on");
  part->add_flag("--memory", o->memory, "List the buffers by name");
  add_no_graphs(*part, *o);
  part->callback([o, &group] { step(*o, group); });

  auto p = std::make_shared<Options>();
  add_part(*bench, "ops", "Each op against its floor in bytes or flops", p)->callback([p] {
    ops(*p);
  });

  auto t = std::make_shared<Options>();
  part = add_part(*bench, "ttt", "Test-time training: window tokens a second", t);
  part->add_option("--doc-tokens", t->doc_tokens, "Length of each document")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 30));
  part->add_option("--documents", t->documents, "Number of documents")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  add_no_graphs(*part, *t);
  part->callback([t] { ttt(*t); });

  auto q = std::make_shared<Options>();
  part = add_part(*bench, "quantize",
                  "Quantizing a model of random weights: summing the Hessians (forward pass and "
                  "products on the\ndevice), GPTQ and entropy coding (on the CPU)",
                  q);
  part->add_option("--batches", q->batches,
                   "Timed batches of --tokens tokens (default: 1 on a CPU, 64 on a GPU)")
      ->check(CLI::PositiveNumber);
  part->callback([q] { quantize(*q); });

  auto c = std::make_shared<Options>();
  part =
      add_part(*bench, "checkpoint",
               "How long a checkpoint holds training up, and what writing it takes from the steps "
               "beside it, by one\nrank or (under mpirun) several",
               c);
  part->add_option("--checkpoints", c->checkpoints, "Checkpoints; the median counts")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  part->add_option("--out", c->out, "A directory on the disk to measure")
      ->capture_default_str()
      ->type_name("DIR");
  part->callback([c, &group] { checkpoint(*c, group); });

  auto e = std::make_shared<Options>();
  add_bare_part(*bench, "exchange",
                "What ranks started by mpirun or srun exchange in a training step: each "
                "collective's time, and the links'\nspeeds as 'fairway plan' takes them",
                e)
      ->callback([e, &group] { exchange(*e, group); });

  add_bench_data(*bench);
}

}  // namespace fairway
