#include "fairway/data/build.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <future>
#include <thread>

#include "fairway/base/check.h"
#include "fairway/data/build_part.h"
#include "fairway/io/write_error.h"

namespace fairway {

namespace {

namespace fs = std::filesystem;

constexpr size_t kTaskBytes = size_t{4}
                              << 20;  // more fill the word cache better, and take more memory

// Blocks for one task, so that many small files do not make as many tasks.
std::vector<TextBlock> next_blocks(TextReader& reader) {
  std::vector<TextBlock> blocks;
  for (size_t bytes = 0; bytes < kTaskBytes; bytes += blocks.back().bytes.size()) {
    TextBlock block;
    if (!reader.next(block)) break;
    blocks.push_back(std::move(block));
  }
  return blocks;
}

// Reads all of the input, task after task: every rank sees them all, and task i is rank (i mod
// ranks)'s. Its tasks are tokenized side by side, as many as keep its threads busy while one is
// awaited, and handed over in order: take(rank, part). Rank 0 is handed those of other ranks too,
// in their places, without a part: they are to come from there.
void for_each_task(TextReader& reader, const Tokenizer& tokenizer, const BuildOptions& options,
                   const ProcessGroup& group,
                   const std::function<void(int rank, std::future<BuildPart> part)>& take) {
  const int asked = group.threads(options.threads);
  const auto threads = asked > 0 ? static_cast<size_t>(asked)
                                 : std::max<size_t>(1, std::thread::hardware_concurrency());
  const size_t ahead = threads * static_cast<size_t>(group.root() ? group.size() : 1);
  struct Task {
    int rank = 0;
    std::future<BuildPart> part;
  };
  std::deque<Task> tasks;
  int rank = 0;
  for (bool more = true; more; rank = (rank + 1) % group.size()) {
    std::vector<TextBlock> blocks = next_blocks(reader);
    more = !blocks.empty();
    if (more && rank == group.rank())
      tasks.push_back(
          {rank, std::async(std::launch::async, [&tokenizer, &options, given = std::move(blocks)] {
             return tokenize_blocks(given, tokenizer, options.text);
           })});
    else if (more && group.root())
      tasks.push_back({rank, {}});
    while (tasks.size() > (more ? ahead : 0)) {
      require(!options.stop || !options.stop(), "{}: interrupted; nothing was written",
              options.out.string());
      Task task = std::move(tasks.front());
      tasks.pop_front();
      take(task.rank, std::move(task.part));
    }
  }
}

// What the ranks without files do: their tasks. Whatever goes wrong is rank 0's to say, once it has
// cleared away what it wrote. Returns when the set is complete.
void help_to_build(const BuildOptions& options, const Tokenizer& tokenizer, ProcessGroup& group) {
  try {
    TextReader reader(find_text_files(options.inputs));
    send_begin(group, reader.bytes_total());
    for_each_task(reader, tokenizer, options, group,
                  [&](int, std::future<BuildPart> part) { send_part(group, part.get()); });
    send_end(group);
  } catch (const Error& e) {
    send_error(group, e.what());
  }
  group.broadcast(true);
}

// The directory for the shards. What had to be made for it goes again unless keep() was called.
class OutputDirectory {
 public:
  explicit OutputDirectory(const fs::path& path) {
    std::error_code error;
    for (fs::path p = path; !p.empty() && !fs::exists(p, error); p = p.parent_path())
      made_.push_back(p);
    fs::create_directories(path, error);
    if (!error) return;
    remove();
    write_failed(path, "make the directory", error.value());
  }
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;
  ~OutputDirectory() { remove(); }
  void keep() { made_.clear(); }

 private:
  void remove() {
    std::error_code ignored;
    for (const fs::path& p : made_) fs::remove(p, ignored);  // the innermost first; only empty ones
  }
  std::vector<fs::path> made_;
};

// Files of an earlier build of the set, the manifest first.
std::vector<fs::path> files_of_set(const fs::path& directory, const std::string& set) {
  std::vector<fs::path> files;
  if (const fs::path manifest = directory / (set + ".json"); fs::exists(manifest))
    files.push_back(manifest);
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if ((name.starts_with(set + "_train_") || name.starts_with(set + "_val_")) &&
        name.ends_with(".bin"))
      files.push_back(entry.path());
  }
  return files;
}

// The moment in which a new set takes the place of an earlier one. Unless keep() is called, the new
// files go again and the earlier ones come back.
class Exchange {
 public:
  // `earlier`: files to replace, the manifest first; `shards`: names of the new ones.
  Exchange(const std::vector<fs::path>& earlier, fs::path directory, const std::string& set,
           const std::vector<std::string>& shards)
      : directory_(std::move(directory)), aside_(directory_ / ("." + set + ".replaced")) {
    for (const auto& name : shards) placed_.push_back(directory_ / name);
    placed_.push_back(directory_ / (set + ".json"));
    if (earlier.empty()) return;
    make_directories(aside_);
    for (const auto& file : earlier) {
      std::error_code error;
      fs::rename(file, aside_ / file.filename(), error);
      if (!error) {
        moved_.push_back(file);
        continue;
      }
      put_back();
      write_failed(file, "replace", error.value());
    }
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() {
    std::error_code ignored;
    if (kept_) {
      fs::remove_all(aside_, ignored);
      return;
    }
    for (const auto& file : placed_) fs::remove(file, ignored);
    put_back();
  }
  void keep() { kept_ = true; }

 private:
  void put_back() {
    std::error_code ignored;
    for (auto it = moved_.rbegin(); it != moved_.rend(); ++it)
      fs::rename(aside_ / it->filename(), *it, ignored);
    fs::remove(aside_, ignored);  // if nothing is left in it
  }
  fs::path directory_, aside_;
  std::vector<fs::path> placed_, moved_;
  bool kept_ = false;
};

void check_options(const BuildOptions& o) {
  if (o.inputs.empty()) usage_fail("--input: name the text to tokenize");
  if (o.val_docs < 0) usage_fail("--val-docs {}: must not be negative", o.val_docs);
  const bool plain = !o.set.empty() && o.set[0] != '.' && o.set.find('/') == std::string::npos;
  if (!plain) usage_fail("--name '{}': not a plain name for files", o.set);
}

}  // namespace

ShardManifest build_shards(const BuildOptions& options, const Tokenizer& tokenizer,
                           ProcessGroup& group,
                           const std::function<void(const BuildProgress&)>& progress) {
  check_options(options);
  if (!group.root()) {
    help_to_build(options, tokenizer, group);
    return {};
  }
  TextReader reader(find_text_files(options.inputs));
  OutputDirectory out(options.out);
  const auto earlier = files_of_set(options.out, options.set);
  require(earlier.empty() || options.overwrite,
          "{}: the set '{}' exists already; choose another --name or --out, or give --overwrite",
          (earlier.empty() ? options.out : earlier.front()).string(), options.set);

  ShardWriter train(options.out, options.set + "_train", options.shard_tokens);
  ShardWriter val(options.out, options.set + "_val", options.shard_tokens);
  ShardManifest manifest;
  manifest.set = options.set;
  manifest.tokenizer_hash = tokenizer.hash();
  manifest.vocab_size = tokenizer.vocab_size();
  manifest.bos = tokenizer.bos();
  BuildProgress done;
  done.input_total = reader.bytes_total();

  const auto write = [&](const BuildPart& part) {
    size_t begin = 0;
    for (size_t i = 0; i < part.ends.size(); ++i) {
      const bool to_val = manifest.val.documents < options.val_docs;
      ShardManifest::Split& split = to_val ? manifest.val : manifest.train;
      (to_val ? val : train).append(std::span(part.tokens).subspan(begin, part.ends[i] - begin));
      ++split.documents;
      split.bytes += part.bytes[i];
      begin = part.ends[i];
    }
    manifest.empty_documents += part.empty;
    done.documents = manifest.train.documents + manifest.val.documents;
    done.tokens = train.tokens() + val.tokens();
    done.text_bytes = manifest.train.bytes + manifest.val.bytes;
    done.input_bytes = reader.bytes_read();
    if (progress) progress(done);
  };

  for (int rank = 1; rank < group.size(); ++rank) receive_begin(group, rank, done.input_total);
  // This thread reads and writes; the tasks between parse and tokenize.
  for_each_task(reader, tokenizer, options, group, [&](int rank, std::future<BuildPart> part) {
    write(rank == group.rank() ? part.get() : receive_part(group, rank));
  });
  for (int rank = 1; rank < group.size(); ++rank) receive_end(group, rank);
  require(done.documents > 0, "{}: no documents with text in the input ({} empty ones)",
          options.inputs.front(), manifest.empty_documents);

  // Everything is on disk before the first file moves. The manifest comes last: a set that has one
  // is complete.
  manifest.train.tokens = train.tokens();
  manifest.val.tokens = val.tokens();
  manifest.train.shards = train.finish();
  manifest.val.shards = val.finish();
  auto shards = manifest.train.shards;
  shards.insert(shards.end(), manifest.val.shards.begin(), manifest.val.shards.end());
  Exchange exchange(earlier, options.out, options.set, shards);
  train.commit();
  val.commit();
  write_manifest(options.out / (options.set + ".json"), manifest);
  exchange.keep();
  out.keep();
  group.broadcast(true);
  return manifest;
}

}  // namespace fairway
