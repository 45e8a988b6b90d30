// `fairway quantize`: GPTQ, entropy coding, the budget.

#include "fairway/quant/quantize.h"

#include <fmt/format.h>

#include <memory>

#include "commands.h"
#include "fairway/base/check.h"
#include "fairway/base/fields.h"
#include "fairway/comm/rank_device.h"
#include "fairway/data/manifest.h"
#include "fairway/data/stream.h"
#include "fairway/data/tokenizer.h"
#include "fairway/io/atomic_file.h"
#include "fairway/model/device_weights.h"
#include "fairway/quant/calibrate.h"
#include "fairway/quant/model_file.h"
#include "fairway/report/report.h"
#include "fairway/train/interrupt.h"
#include "quantize_stage.h"
#include "status_line.h"

namespace fairway {

Budget quantize(const QuantizeJob& job, ProcessGroup& group) {
  job.config.validate();
  const ModelFile model = load_any_model(job.model);
  const TokenStream text(job.calibration, model.config.vocab_size);
  if (group.root()) check_can_write(job.out);
  StatusLine status;

  const DeviceChoice own = for_rank(job.device, group);
  const auto progress = [&](int64_t done, int64_t of) {
    if (!group.root() || !status.due()) return;
    const auto share = static_cast<double>(done) / static_cast<double>(of);
    status.show(fmt::format("calibrating: {:.0f}%, {} left", 100 * share,
                            clock_text(status.seconds() * (1 - share) / share)));
  };
  const Hessians hessians =
      with_device(own, [&]<class Device, class T>(Device& device, std::type_identity<T>) {
        const DeviceWeights<Device, T> weights(device, model.config, model.flat.data());
        return calibrate(device, model.config, weights.view(), text, job.config, group, progress);
      });
  if (group.root()) status.show("quantizing");
  CpuDevice cpu(own.threads);
  std::vector<std::string> remarks;
  QuantizedModel quantized = quantize_model(
      cpu, model.config, model.flat.data(), hessians, job.config, group,
      [&](const std::string& name, const GptqNotes& notes) {
        if (notes.dead_columns)
          remarks.push_back(fmt::format("{}: {} inputs were zero on all calibration text", name,
                                        notes.dead_columns));
        if (notes.damping != job.config.damping)
          remarks.push_back(fmt::format("{}: its Hessian is nearly singular; damping raised to {}",
                                        name, notes.damping));
      });
  if (!group.root()) return {};
  quantized.tokenizer_hash = job.tokenizer_hash ? job.tokenizer_hash : model.tokenizer_hash;
  if (!quantized.tokenizer_hash)
    if (const auto manifest = find_manifest(job.calibration.front()))
      quantized.tokenizer_hash = manifest->tokenizer_hash;
  status.show("coding");
  Budget budget;
  const auto artifact = pack_artifact(quantized, &budget.artifact);
  {
    const InterruptGuard interrupt;  // a signal lets the file be finished, so that no part is left
    AtomicFile file(job.out);
    file.write(artifact);
    file.commit();
    require(!interrupt.requested(), "{}: interrupted when it was complete", job.out.string());
  }
  budget.code_entropy_bits = histogram_entropy_bits(quantized);
  if (job.compare_with_brotli) {
    status.show("compressing with Brotli, for comparison");
    budget.brotli = compare_with_brotli(quantized);
  }
  status.clear();
  for (const std::string& remark : remarks) fmt::print("{}\n", remark);
  return budget;
}

namespace {

struct Options {
  QuantizeJob job;
  std::string model, out, tokenizer, json, device = "auto", precision = "auto";
  std::vector<std::string> calibration;
  bool no_brotli = false, allow_over_budget = false;
};

void run(Options& o, ProcessGroup& group) {
  o.job.model = o.model, o.job.out = o.out;
  o.job.calibration = find_shards(o.calibration);
  if (group.root() && !o.json.empty()) check_can_write(o.json);
  o.job.compare_with_brotli = !o.no_brotli;
  parse_field("--device", o.device, o.job.device.kind);
  parse_field("--matmul-precision", o.precision, o.job.device.precision);
  refuse_float8(o.job.device.precision);
  if (!o.tokenizer.empty()) {
    const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
    check_tokenizer_matches(o.job.calibration, tokenizer);
    o.job.tokenizer_hash = tokenizer.hash();
  }
  const Budget budget = quantize(o.job, group);
  if (!group.root()) return;
  fmt::print("{}", to_markdown(budget));
  if (!o.json.empty()) write_file(o.json, to_json(budget));
  if (budget.fits()) return;
  const std::string over = fmt::format(
      "{}: with the evaluator's sources {} bytes, {} over the budget of {}; use fewer bits, a "
      "larger "
      "clip, or a smaller model",
      o.out, budget.total(), budget.total() - kArtifactBudget, kArtifactBudget);
  if (!o.allow_over_budget) fail("{} (--allow-over-budget makes this a warning)", over);
  fmt::print(stderr, "warning: {}\n", over);
}

}  // namespace

void add_quantize(CLI::App& app, ProcessGroup& group) {
  CLI::App* command = app.add_subcommand(
      "quantize",
      "Packs a trained model into an artifact: GPTQ against calibration text, then entropy "
      "coding.\n"
      "Prints every byte of the budget. An artifact over the budget is written all the same, with\n"
      "exit status 1.\n"
      "Example: fairway quantize RUN/model.safetensors --calibration 'DIR/*_train_*.bin' \\\n"
      "           --out RUN/model.fairway");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "The float model, a .safetensors")
      ->required()
      ->type_name("MODEL");
  command
      ->add_option("--calibration", o->calibration,
                   "Shards of training text (files or globs) that the Hessians are computed on")
      ->required()
      ->type_name("F.bin…");
  command->add_option("--out", o->out, "The artifact to write")->required()->type_name("M.fairway");
  command
      ->add_option(
          "--tokenizer", o->tokenizer,
          "Records this tokenizer's identity in the artifact (default: the one that MODEL\n"
          "names, if it does)")
      ->type_name("T.model");
  command->add_option("--json", o->json, "Writes the budget, tensor by tensor, as JSON")
      ->type_name("FILE");
  command
      ->add_option(
          "--device", o->device,
          "Where the Hessians are summed; auto: a GPU where there is one. The rest runs on "
          "the CPU")
      ->capture_default_str()
      ->type_name("auto|cpu|cuda");
  command
      ->add_option(
          "--matmul-precision", o->precision,
          "Inputs of the matrix products before that; auto: bfloat16 on a GPU, float32 on a "
          "CPU")
      ->capture_default_str()
      ->type_name("auto|float32|bfloat16");
  command
      ->add_option("--threads", o->job.device.threads,
                   "CPU threads (0: all); never changes the result")
      ->capture_default_str()
      ->type_name("N");
  command->add_flag("--no-brotli", o->no_brotli,
                    "Skips the comparison with Brotli 11 (a minute or two for 16 MB)");
  command->add_flag("--allow-over-budget", o->allow_over_budget,
                    "Exit status 0 even if the artifact is over the budget");
  QuantConfig::visit_fields(o->job.config, [&](std::string key, auto& value, const char* help) {
    for (char& c : key)
      if (c == '_') c = '-';
    command->add_option("--" + key, value, help)
        ->capture_default_str()
        ->group("The recipe's [quant] table");
  });
  command->callback([o, &group] { run(*o, group); });
}

}  // namespace fairway
