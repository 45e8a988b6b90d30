#include "fairway/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include "fairway/base/check.h"
#include "fairway/data/packing.h"
#include "fairway/data/shard.h"

namespace fairway {

namespace {

constexpr size_t kBatchesAhead = 2;

struct OpenShard {
  ShardFile file;
  int64_t first_bos;  // file.tokens().size() if there is none
};

OpenShard open_shard(const std::filesystem::path& path, const LoaderOptions& options) {
  ShardFile file(path, options.vocab_size);
  const auto tokens = file.tokens();
  const auto bos = std::find(tokens.begin(), tokens.end(), static_cast<uint16_t>(options.bos));
  return {std::move(file), bos - tokens.begin()};
}

// Walks the shards: cuts one batch after the other, and opens the next shard while this one is
// read.
class Cutter {
 public:
  Cutter(const std::vector<std::filesystem::path>& shards, const LoaderOptions& options,
         const LoaderPosition& position)
      : shards_(shards),
        options_(options),
        position_(position),
        shard_(open_shard(shards_[static_cast<size_t>(position.shard)], options_)) {
    require(
        position.cursor <= static_cast<int64_t>(shard_.file.tokens().size()),
        "{}: training is to continue at token {}, but the shard has {}; the shards have changed",
        shard_.file.path().string(), position.cursor, shard_.file.tokens().size());
    open_next();
  }

  // Moves on to the next place where a round fits.
  void seek_fit() {
    int64_t longest = 0;
    bool any_bos = false;
    // One more than the set: the current shard may fit from its beginning but not from its cursor.
    for (size_t tried = 0; tried <= shards_.size(); ++tried) {
      const auto size = static_cast<int64_t>(shard_.file.tokens().size());
      position_.cursor = std::max(position_.cursor, shard_.first_bos);
      if (position_.cursor + round_tokens() <= size) return;
      any_bos |= shard_.first_bos < size;
      longest = std::max(longest, size - shard_.first_bos);
      advance();
    }
    require(
        any_bos,
        "{}: no shard of the set holds token {}, which starts each document (bos); was it built "
        "with another tokenizer?",
        shards_.front().string(), options_.bos);
    fail(
        "{}: one micro-step of {} rank(s) reads {} consecutive tokens, but the longest shard of "
        "the set "
        "has "
        "{} from its first document on; use fewer tokens a step or more text",
        shards_.front().string(), round_ranks(), round_tokens(), longest);
  }

  // Where the search for the next batch begins.
  const LoaderPosition& position() const { return position_; }

  PackedBatch cut() {
    seek_fit();
    PackedBatch batch = own_batch();
    end_round();
    // A last round that has none for this rank.
    if (begun_ > 0 && options_.rank >= round_ranks()) {
      seek_fit();
      end_round();
    }
    return batch;
  }

 private:
  PackedBatch own_batch() const {
    const int64_t n = options_.tokens;
    const auto span = shard_.file.tokens().subspan(
        static_cast<size_t>(position_.cursor + options_.rank * (n + 1)),
        static_cast<size_t>(n + 1));
    PackedBatch batch;
    batch.inputs.assign(span.begin(), span.end() - 1);
    batch.targets.assign(span.begin() + 1, span.end());
    batch.cu_seqlens =
        make_cu_seqlens(batch.inputs, options_.bos, options_.max_doc_len, options_.bucket);
    return batch;
  }

  // Ranks that the round has a micro-batch for.
  int round_ranks() const { return std::min(options_.world, options_.micro_steps - begun_); }
  int64_t round_tokens() const { return round_ranks() * (options_.tokens + 1); }

  void end_round() {
    position_.cursor += round_tokens();
    begun_ = (begun_ + round_ranks()) % options_.micro_steps;
  }

  void open_next() {
    const size_t i = (static_cast<size_t>(position_.shard) + 1) % shards_.size();
    next_ = std::async(std::launch::async, open_shard, shards_[i], options_);
  }

  void advance() {
    shard_ = next_.get();
    position_.cursor = 0;
    if (++position_.shard == static_cast<int64_t>(shards_.size())) {
      position_.shard = 0;
      ++position_.epoch;
    }
    open_next();
  }

  const std::vector<std::filesystem::path>& shards_;
  const LoaderOptions& options_;
  LoaderPosition position_;
  int begun_ = 0;  // micro-batches of the step that earlier rounds have taken
  OpenShard shard_;
  std::future<OpenShard> next_;
};

}  // namespace

struct TrainLoader::Impl {
  struct Ready {
    PackedBatch batch;
    LoaderPosition after;
  };

  Impl(std::vector<std::filesystem::path> files, const LoaderOptions& o)
      : shards(std::move(files)), options(o) {}
  ~Impl() { stop(); }

  // Throws on the calling thread if no batch can be had from `position` on.
  void start(const LoaderPosition& from) {
    position = from;
    cutter.emplace(shards, options, from);
    cutter->seek_fit();
    worker = std::jthread([this](const std::stop_token& stopping) { read_ahead(stopping); });
  }

  void stop() {
    if (worker.joinable()) {
      worker.request_stop();
      worker.join();
    }
    cutter.reset();
    queue.clear();
    error = nullptr;
  }

  void read_ahead(const std::stop_token& stopping) {
    try {
      for (;;) {
        Ready ready{cutter->cut(), {}};
        ready.after = cutter->position();
        std::unique_lock lock(mutex);
        if (!changed.wait(lock, stopping, [&] { return queue.size() < kBatchesAhead; })) return;
        queue.push_back(std::move(ready));
        changed.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  // What was read before an error still comes out.
  PackedBatch take() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !queue.empty() || error; });
    if (queue.empty()) std::rethrow_exception(error);
    PackedBatch batch = std::move(queue.front().batch);
    position = queue.front().after;
    queue.pop_front();
    changed.notify_all();
    return batch;
  }

  const std::vector<std::filesystem::path> shards;
  LoaderOptions options;
  LoaderPosition position;       // the caller's: behind the batch taken last
  std::optional<Cutter> cutter;  // the worker's, while it runs
  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Ready> queue;
  std::exception_ptr error;
  std::jthread worker;
};

TrainLoader::TrainLoader(std::vector<std::filesystem::path> shards, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(shards), options)) {
  check(
      options.tokens > 0 && options.world > 0 && options.rank >= 0 && options.rank < options.world,
      "TrainLoader: options");
  if (options.micro_steps == 0) impl_->options.micro_steps = options.world;
  check(impl_->options.micro_steps >= options.world, "TrainLoader: a rank without micro-batches");
  require(!impl_->shards.empty(), "no training shards were named");
  for (const auto& path : impl_->shards) ShardFile{path};
  impl_->start({});
}

TrainLoader::~TrainLoader() = default;

PackedBatch TrainLoader::next() {
  return impl_->take();
}

LoaderPosition TrainLoader::position() const {
  return impl_->position;
}

void TrainLoader::seek(const LoaderPosition& position) {
  require(position.epoch >= 0 && position.cursor >= 0 && position.shard >= 0 &&
              position.shard < static_cast<int64_t>(impl_->shards.size()),
          "training is to continue at shard {}, token {}, but there are {} shards; the shards have "
          "changed",
          position.shard, position.cursor, impl_->shards.size());
  impl_->stop();
  impl_->start(position);
}

}  // namespace fairway
