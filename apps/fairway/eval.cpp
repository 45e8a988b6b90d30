// `fairway eval`: the score of a model on a set of shards.

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>

#include "commands.h"
#include "eval_stage.h"
#include "fairway/base/fields.h"
#include "fairway/comm/rank_device.h"
#include "fairway/data/manifest.h"
#include "fairway/data/shard.h"
#include "fairway/device/choose.h"
#include "fairway/eval/evaluate.h"
#include "fairway/io/atomic_file.h"
#include "fairway/model/device_weights.h"
#include "fairway/quant/model_file.h"
#include "fairway/report/report.h"
#include "status_line.h"

namespace fairway {

namespace {

struct Options {
  EvalJob job;
  std::string json, nll;
};

template <class T>
CLI::Option* add_field(CLI::App& app, const std::string& flag, T& value, const std::string& help) {
  const auto set = [flag, &value](const std::string& text) { parse_field(flag, text, value); };
  std::string type = "TEXT";
  if constexpr (std::is_enum_v<T>)
    type = fmt::format("{}", fmt::join(names(T{}), "|"));
  else if constexpr (std::is_integral_v<T>)
    type = "N";
  else if constexpr (std::is_floating_point_v<T>)
    type = "X";
  auto* option = app.add_option_function<std::string>(flag, set, help)->type_name(type);
  if (const std::string text = format_field(value); !text.empty()) option->default_str(text);
  return option;
}

// One option for each field of a configuration: `--batch-tokens N`, or `--no-loop` for a switch
// that is on.
template <class Config>
void add_fields(CLI::App& app, Config& config, const std::string& group) {
  Config::visit_fields(config, [&](const char* name, auto& value, const char* help) {
    std::string word = name;
    std::replace(word.begin(), word.end(), '_', '-');
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, bool>) {
      app.add_flag_callback(
             "--no-" + word, [&value] { value = false; }, std::string("do not ") + help)
          ->group(group);
    } else if (!app.get_option_no_throw("--" + word)) {  // sliding and ttt share --window
      add_field(app, "--" + word, value, help)->group(group);
    }
  });
}

// Tokenizer, model and shards must speak of the same tokens, as far as each of them says.
void check_same_tokenizer(const EvalJob& o, const ModelFile& model,
                          const std::vector<std::filesystem::path>& shards,
                          const std::optional<Tokenizer>& tokenizer) {
  if (tokenizer) {
    check_tokenizer_matches(shards, *tokenizer);
    require(!model.tokenizer_hash || *model.tokenizer_hash == tokenizer->hash(),
            "{}: not the tokenizer that {} was trained with; pass that one with --tokenizer",
            o.tokenizer, o.model);
    require(tokenizer->vocab_size() == model.config.vocab_size,
            "{}: has {} pieces, but {} has a vocabulary of {}; pass the model's own tokenizer",
            o.tokenizer, tokenizer->vocab_size(), o.model, model.config.vocab_size);
    return;
  }
  for (const auto& shard : shards)
    if (const auto manifest = find_manifest(shard))
      require(!model.tokenizer_hash || *model.tokenizer_hash == manifest->tokenizer_hash,
              "{}: made with another tokenizer than the one {} was trained with; build the shards "
              "with that one",
              shard.string(), o.model);
}

uint16_t bos_of(const std::vector<std::filesystem::path>& shards,
                const std::optional<Tokenizer>& tokenizer) {
  if (tokenizer) return tokenizer->bos();
  const auto manifest = find_manifest(shards.front());
  return static_cast<uint16_t>(manifest ? manifest->bos : 1);
}

void show(StatusLine& line, std::string_view mode, const EvalProgress& p) {
  if (!line.due() || p.done == 0) return;
  const auto done = static_cast<double>(p.done), left = static_cast<double>(p.total - p.done);
  line.show(fmt::format("{}  {:.1f}%  {:.4f} nats/token  {:.0f} tokens/s  {} left", mode,
                        100 * done / static_cast<double>(p.total), p.nats_per_token,
                        done / line.seconds(), clock_text(left * line.seconds() / done)));
}

void print(const Score& s) {
  fmt::print("nats/token  {:.5f}\n", s.nats_per_token);
  if (s.bpb) fmt::print("bpb         {:.5f}\n", *s.bpb);
  fmt::print("tokens      {}\n", s.tokens);
  if (s.bytes) fmt::print("bytes       {}\n", *s.bytes);
  fmt::print("seconds     {:.1f}  ({:.0f} tokens/s)\n", s.seconds,
             static_cast<double>(s.tokens) / s.seconds);
  fmt::print("by          {}\n", computed_by(s));
}

void run(Options o, ProcessGroup& group) {
  o.job.ttt.window = o.job.eval.window;
  if (!group.root()) o.json = o.nll = "";
  // A path that cannot be written is found out before the work, not after it.
  for (const std::string& path : {o.json, o.nll})
    if (!path.empty()) check_can_write(path);
  const Evaluation result = evaluate(o.job, group);
  if (!o.nll.empty()) {
    AtomicFile file(o.nll);
    file.write(std::as_bytes(std::span(result.nll)));
    file.commit();
  }
  if (!o.json.empty()) write_file(o.json, to_json(result.score));
  print(result.score);
}

constexpr const char* kFooter = R"(Modes:
  chunked   the stream in spans of --batch-tokens; a token sees at most max_doc_len tokens of its
            document, and nothing from before its span. The fastest.
  sliding   windows of --window tokens every --stride tokens: in a long document every token but
            the first few sees at least window - stride others.
  ttt       test-time training: each document is scored in chunks of --chunk-size targets, and
            after each chunk its low-rank adapters take a step on it. Nothing is trained on before
            it has been scored, nothing passes from one document to another. The best score.
All modes score every token exactly once. Ranks started by mpirun or srun share the work; the score
is the same bits for any number of them.

Example:
  fairway eval run/model.fairway --data data/web_val_*.bin --tokenizer web.model --mode ttt
)";

}  // namespace

Evaluation evaluate(const EvalJob& job, ProcessGroup& group) {
  job.eval.validate();
  if (job.eval.mode == EvalMode::ttt) job.ttt.validate();
  const ModelFile model = load_any_model(job.model);
  const auto shards = find_shards(job.data);
  std::optional<Tokenizer> tokenizer;
  if (!job.tokenizer.empty()) tokenizer = Tokenizer::load(job.tokenizer);
  check_same_tokenizer(job, model, shards, tokenizer);
  const TokenStream stream(shards, model.config.vocab_size);
  std::optional<TokenBytes> bytes;
  if (tokenizer) bytes.emplace(*tokenizer);

  StatusLine line;
  std::function<void(const EvalProgress&)> progress;
  if (group.root())
    progress = [&](const EvalProgress& p) { show(line, enum_name(job.eval.mode), p); };
  DeviceChoice choice = for_rank(job.device, group);
  choice.precision = job.eval.matmul_precision;
  return with_device(choice, [&]<class Device, class T>(Device& device, std::type_identity<T>) {
    const DeviceWeights<Device, T> weights(device, model.config, model.flat.data());
    return evaluate(device, model.config, weights.view(), stream, bos_of(shards, tokenizer),
                    bytes ? &*bytes : nullptr, job.eval, job.ttt, group, progress);
  });
}

void add_eval(CLI::App& app, ProcessGroup& group) {
  auto* cmd = app.add_subcommand("eval", "Score a model: nats per token and bits per byte");
  cmd->footer(kFooter);
  const auto options = std::make_shared<Options>();
  EvalJob& job = options->job;
  cmd->add_option("MODEL", job.model, "a .safetensors or .fairway file")->required();
  cmd->add_option("--data", job.data, "shards to score, files or globs, in this order")
      ->required()
      ->type_name("F.bin...");
  cmd->add_option("--tokenizer", job.tokenizer,
                  "tokenizer of the data, or 'bytes'; without it there are no bits per byte")
      ->type_name("T.model");
  cmd->add_option(
         "--json", options->json,
         "write nats_per_token, bpb, tokens, bytes, seconds and what computed them as JSON")
      ->type_name("FILE");
  cmd->add_option("--nll", options->nll,
                  "write the nll of each target, one float32 each, in stream order")
      ->type_name("FILE");
  add_field(*cmd, "--device", job.device.kind, "auto: a GPU where there is one");
  add_field(*cmd, "--threads", job.device.threads,
            "CPU threads (0: one per core); they do not change the result");
  add_field(*cmd, "--matmul-precision", job.eval.matmul_precision,
            "inputs of matrix products; auto: bfloat16 on a GPU, float32 on a CPU; float8: the "
            "MLP's, the others as auto (faster on Hopper, slower elsewhere)");
  add_fields(*cmd, job.eval, "Evaluation");
  add_fields(*cmd, job.ttt, "Test-time training (--mode ttt)");
  cmd->get_option("--lora-init")->type_name("FILE");
  cmd->get_option("--window")->description("sliding and ttt: tokens of one window, at most");
  cmd->callback([options, &group] { run(*options, group); });
}

}  // namespace fairway
