// fairway tokenizer train

#include <cstdio>
#include <memory>

#include "commands.h"
#include "fairway/base/fields.h"
#include "fairway/data/describe.h"
#include "fairway/data/tokenizer_train.h"

namespace fairway {

namespace {

struct Options {
  TokenizerTraining training;
  std::string out, normalization = "identity", invalid_utf8 = "error";
};

void train(Options& o) {
  parse_field("--normalization", o.normalization, o.training.normalization);
  parse_field("--invalid-utf8", o.invalid_utf8, o.training.text.invalid_utf8);
  train_tokenizer(o.training, o.out);
  fmt::print("{}", describe_tokenizer(o.out));
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "Make tokenizers");
  tokenizer->require_subcommand(1);
  CLI::App* command = tokenizer->add_subcommand(
      "train",
      "Learns a SentencePiece BPE vocabulary from text: byte fallback, digits split, no dummy "
      "prefix,\n"
      "character coverage 0.999; pad 0, bos 1, eos 2, unk 3. The same text and options give the "
      "same\n"
      "file.\n"
      "Example: fairway tokenizer train --input text.jsonl.xz --vocab-size 8192 --out T.model");
  auto o = std::make_shared<Options>();
  command
      ->add_option("--input", o->training.inputs,
                   "Text: .txt (one document a file) or .jsonl (one a line), also as .xz, .zst or\n"
                   ".gz; files, globs, or directories to search")
      ->type_name("F…");
  command
      ->add_option("--vocab-size", o->training.vocab_size,
                   "Pieces, at most 65536; 260 makes the byte tokenizer, which needs no text")
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--out", o->out, "The model file to write")->required()->type_name("T.model");
  command
      ->add_option(
          "--normalization", o->normalization,
          "identity: decoding gives back the very bytes of the text; nmt_nfkc: Unicode NFKC, runs\n"
          "of white space become one space (the published record uses this)")
      ->capture_default_str()
      ->type_name("NAME");
  command
      ->add_option(
          "--max-bytes", o->training.max_bytes,
          "Read no more documents once this many bytes of text were read; training holds them\n"
          "in memory several times over")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command
      ->add_option("--field", o->training.text.field,
                   "The field of a JSON line that holds the text")
      ->capture_default_str()
      ->type_name("NAME");
  command
      ->add_option("--invalid-utf8", o->invalid_utf8,
                   "error: stop and name the place; replace: put U+FFFD there")
      ->capture_default_str()
      ->type_name("WHAT");
  command->callback([o] { train(*o); });
}

}  // namespace fairway
