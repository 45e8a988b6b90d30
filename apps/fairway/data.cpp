// fairway data build

#include <algorithm>
#include <memory>

#include "commands.h"
#include "fairway/base/fields.h"
#include "fairway/data/build.h"
#include "fairway/train/interrupt.h"
#include "status_line.h"

namespace fairway {

namespace {

struct Options {
  BuildOptions build;
  std::string tokenizer, out, invalid_utf8 = "error";
};

void show(StatusLine& line, const BuildProgress& p) {
  if (!line.due()) return;
  const double seconds = line.seconds(), text = static_cast<double>(p.text_bytes) / 1e6;
  const double share =
      p.input_total == 0 ? 1.0
                         : static_cast<double>(p.input_bytes) / static_cast<double>(p.input_total);
  line.show(
      fmt::format("{:.1f}%  {} documents  {:.1f} MB of text  {:.1f} M tokens  {:.1f} MB/s  {} left",
                  100 * share, p.documents, text, static_cast<double>(p.tokens) / 1e6,
                  text / seconds, clock_text(seconds * (1 - share) / std::max(share, 1e-9))));
}

void print_split(const char* name, const ShardManifest::Split& split) {
  fmt::print("{:5}  {} documents, {} tokens, {} bytes of text", name, split.documents, split.tokens,
             split.bytes);
  if (split.tokens > split.documents)
    fmt::print(" ({:.3f} bytes a token)", static_cast<double>(split.bytes) /
                                              static_cast<double>(split.tokens - split.documents));
  fmt::print(", {} shards\n", split.shards.size());
}

void build(Options& o, ProcessGroup& group) {
  parse_field("--invalid-utf8", o.invalid_utf8, o.build.text.invalid_utf8);
  o.build.out = o.out;
  const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
  const InterruptGuard interrupt;
  o.build.stop = [&] { return interrupt.requested(); };
  StatusLine line;
  const ShardManifest m =
      build_shards(o.build, tokenizer, group, [&](const BuildProgress& p) { show(line, p); });
  line.clear();
  if (!group.root()) return;
  const double seconds = line.seconds();
  print_split("train", m.train);
  print_split("val", m.val);
  if (m.empty_documents > 0) fmt::print("       {} empty documents skipped\n", m.empty_documents);
  fmt::print("{}/{}.json written, {:.1f} s, {:.1f} MB of text a second\n", o.out, m.set, seconds,
             static_cast<double>(m.train.bytes + m.val.bytes) / 1e6 / seconds);
}

}  // namespace

void add_data(CLI::App& app, ProcessGroup& group) {
  CLI::App* data = app.add_subcommand("data", "Turn text into token shards");
  data->require_subcommand(1);
  CLI::App* command = data->add_subcommand("build",
                                           "Tokenizes text into shards SET_train_000000.bin, "
                                           "SET_val_000000.bin, … and writes SET.json, which\n"
                                           "says what they hold and which tokenizer made them. "
                                           "Documents keep their order; each becomes\n"
                                           "bos and its tokens; empty ones are skipped and "
                                           "counted. If anything fails, nothing is written.\n"
                                           "Example: fairway data build --input text.jsonl.xz "
                                           "--tokenizer T.model --out DIR --val-docs 1000");
  auto o = std::make_shared<Options>();
  command
      ->add_option("--input", o->build.inputs,
                   "Text: .txt (one document a file) or .jsonl (one a line), also as .xz, .zst or\n"
                   ".gz; files, globs, or directories to search")
      ->required()
      ->type_name("F…");
  command
      ->add_option("--tokenizer", o->tokenizer, "A model file, or 'bytes' for the byte tokenizer")
      ->required()
      ->type_name("T.model");
  command->add_option("--out", o->out, "The directory for the shards; made if need be")
      ->required()
      ->type_name("DIR");
  command->add_option("--val-docs", o->build.val_docs, "The first N documents are validation")
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--name", o->build.set, "Name of the set: how its files begin")
      ->capture_default_str()
      ->type_name("SET");
  command
      ->add_option("--field", o->build.text.field, "The field of a JSON line that holds the text")
      ->capture_default_str()
      ->type_name("NAME");
  command
      ->add_option("--invalid-utf8", o->invalid_utf8,
                   "error: stop and name the place; replace: put U+FFFD there")
      ->capture_default_str()
      ->type_name("WHAT");
  command->add_flag("--overwrite", o->build.overwrite, "Replace a set of that name");
  command
      ->add_option("--threads", o->build.threads,
                   "Threads that tokenize, of each rank; 0: one a core")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->type_name("N");
  command->callback([o, &group] { build(*o, group); });
}

}  // namespace fairway
