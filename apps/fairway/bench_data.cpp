// fairway bench data

#include <sentencepiece_processor.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <memory>
#include <thread>

#include "commands.h"
#include "fairway/base/check.h"
#include "fairway/data/build.h"
#include "fairway/data/loader.h"
#include "fairway/data/text_input.h"
#include "fairway/data/tokenizer.h"
#include "fairway/io/atomic_file.h"

namespace fairway {

namespace {

struct Options {
  std::vector<std::string> inputs;
  std::string tokenizer;
  int64_t max_bytes = 20'000'000;
  int64_t loader_tokens = 98'304;
};

// Wall-clock seconds, and seconds of processor time over all threads of this program: the latter
// are not disturbed by what else the machine does.
struct Seconds {
  double wall = 0, cpu = 0;
};

template <class F>
Seconds measure(F&& f) {
  const auto cpu = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const auto wall_start = std::chrono::steady_clock::now();
  const double cpu_start = cpu();
  f();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - wall_start;
  return {wall.count(), cpu() - cpu_start};
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "fairway-bench-XXXXXX").string();
    require(::mkdtemp(name.data()) != nullptr, "{}: cannot make a temporary directory", name);
    path = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::filesystem::path path;
};

// The blocks of the input that hold its first `max_bytes` bytes or little more.
std::vector<TextBlock> read_blocks(const std::vector<std::string>& inputs, int64_t max_bytes) {
  TextReader reader(find_text_files(inputs));
  std::vector<TextBlock> blocks;
  int64_t bytes = 0;
  for (TextBlock block; bytes < max_bytes && reader.next(block);) {
    bytes += static_cast<int64_t>(block.bytes.size());
    blocks.push_back(std::move(block));
  }
  return blocks;
}

void bench(const Options& o) {
  const Tokenizer tokenizer = Tokenizer::load(o.tokenizer);
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());

  std::vector<TextBlock> blocks;
  const Seconds reading = measure([&] { blocks = read_blocks(o.inputs, o.max_bytes); });
  std::vector<std::string> texts;
  const Seconds parsing = measure([&] {
    for (const TextBlock& block : blocks)
      for (auto& text : parse_documents(block, {})) texts.push_back(std::move(text));
  });
  double megabytes = 0;
  for (const auto& text : texts) megabytes += static_cast<double>(text.size()) / 1e6;
  require(megabytes > 0, "{}: no text", o.inputs.front());

  fmt::print("{:.1f} MB of text in {} documents, {} cores\n\n", megabytes, texts.size(), cores);
  fmt::print("{:38} {:>12} {:>16}\n", "", "MB/s", "MB/s of a core");
  const auto row = [&](const char* what, const Seconds& s) {
    fmt::print("{:38} {:12.1f} {:16.1f}\n", what, megabytes / s.wall, megabytes / s.cpu);
  };
  row("read and decompress, one thread", reading);
  row("parse, one thread", parsing);

  double reference = 0;  // MB/s of a core
  if (!tokenizer.is_byte_tokenizer()) {
    sentencepiece::SentencePieceProcessor sp;
    const auto status = sp.Load(o.tokenizer);
    require(status.ok(), "{}: {}", o.tokenizer, status.error_message());
    std::vector<int> ids;
    const Seconds s = measure([&] {
      for (const auto& text : texts) (void)sp.Encode(text, &ids);
    });
    row("SentencePiece itself, one thread", s);
    reference = megabytes / s.cpu;
  }
  const Seconds encoding = measure([&] {
    std::vector<uint16_t> tokens;
    WordCache cache;
    for (const auto& text : texts) {
      tokens.clear();
      tokenizer.encode(text, tokens, &cache);
    }
  });
  row("tokenizer, one thread", encoding);

  const TemporaryDirectory directory;
  BuildOptions build;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const auto name =
        directory.path / fmt::format("{:06}.{}", i, blocks[i].json_lines ? "jsonl" : "txt");
    AtomicFile file(name);
    file.write(blocks[i].bytes);
    file.commit();
    build.inputs.push_back(name.string());
  }
  build.out = directory.path / "shards";
  ShardManifest manifest;
  const Seconds building = measure([&] { manifest = build_shards(build, tokenizer); });
  row("data build, all cores", building);
  if (reference > 0)
    fmt::print("\nof SentencePiece's own rate a core: tokenizer {:.2f}, data build {:.2f}\n",
               megabytes / encoding.cpu / reference, megabytes / building.cpu / reference);

  LoaderOptions loading;
  loading.tokens = std::min(o.loader_tokens, manifest.train.tokens - 1);
  loading.max_doc_len = 2048;
  loading.bos = tokenizer.bos();
  loading.vocab_size = tokenizer.vocab_size();
  std::vector<std::filesystem::path> shards;
  for (const auto& name : manifest.train.shards) shards.push_back(build.out / name);
  TrainLoader loader(shards, loading);
  constexpr int kBatches = 200;
  const Seconds batches = measure([&] {
    for (int i = 0; i < kBatches; ++i) loader.next();
  });
  fmt::print("training batches of {} tokens: {:.0f} M tokens/s\n", loading.tokens,
             kBatches * static_cast<double>(loading.tokens) / 1e6 / batches.wall);
}

}  // namespace

void add_bench_data(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "data",
      "Measures reading, parsing and tokenizing text, building shards and packing batches, and "
      "compares\n"
      "the tokenizer with SentencePiece's own rate on the same text in the same run.");
  auto o = std::make_shared<Options>();
  command->add_option("--input", o->inputs, "Text, as 'fairway data build' takes it")
      ->required()
      ->type_name("F…");
  command
      ->add_option("--tokenizer", o->tokenizer, "A model file, or 'bytes' for the byte tokenizer")
      ->required()
      ->type_name("T.model");
  command->add_option("--max-bytes", o->max_bytes, "Use about this much of the input")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command->add_option("--tokens", o->loader_tokens, "Tokens of a training batch")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command->callback([o] { bench(*o); });
}

}  // namespace fairway
