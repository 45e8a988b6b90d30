#include "fairway/eval/ttt.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <type_traits>

#include "fairway/device/run_types.h"
#include "fairway/eval/lora_init.h"
#include "fairway/eval/pass.h"
#include "fairway/eval/ttt_memory.h"
#include "fairway/model/lora_copies.h"
#include "fairway/ops/adamw.h"
#include "fairway/ops/adapter_copies.h"

namespace fairway {

namespace {

using Batches = std::vector<std::vector<int64_t>>;

template <class Device, class T>
class Ttt {
 public:
  Ttt(Device& device, const Network& net, const Weights<const T>& weights,
      const TokenStream& stream, std::span<const Document> documents, const TttConfig& config,
      const LoraLayout& layout, const LoraCopies* copies, E4m3Mlp mlp, const Batches& batches)
      : device_(device),
        stream_(stream),
        documents_(documents),
        config_(config),
        layout_(layout),
        copies_(copies),
        pass_(device, net, weights, capacity(batches, mlp)) {
    int64_t docs = 0;
    for (const auto& batch : batches) docs = std::max(docs, std::ssize(batch));
    const auto learners = [&](Arena& arena) {
      return Learners<T>(arena, layout_, copies_, docs, config_);
    };
    Arena dry;
    learners(dry);
    memory_ = device_.allocate(dry.peak());
    Arena arena(memory_.data(), memory_.bytes());
    learners_ = learners(arena);
    if (!config_.lora_init.empty()) init_ = read_lora_init(config_.lora_init, layout_);
  }

  // score(window, its nll) for every chunk of every document of the batch.
  template <class F>
  void run(const std::vector<int64_t>& batch, F&& score) {
    for (size_t b = 0; b < batch.size(); ++b) start(b, batch[b]);
    if (copies_) copy_adapters(device_, copies_->matrices(), buffers(batch.size()));
    // Longest first: the documents that have another chunk behind chunk c are a prefix of the
    // batch.
    const auto goes_on = [&](int64_t c) { return [&, c](int64_t i) { return c < last_chunk(i); }; };
    for (int64_t c = 0; c < last_chunk(batch.front()); ++c) {
      const auto end = std::partition_point(batch.begin(), batch.end(), goes_on(c));
      learn(batch, static_cast<size_t>(end - batch.begin()), c, score);
    }
    // Nothing is learnt from last chunks, and one pass of them all takes less time than many small
    // ones. Their documents' adapters have waited for it.
    windows_.clear();
    for (int64_t i : batch) windows_.push_back(window(i, last_chunk(i)));
    pass(false, score);
  }

 private:
  const Document& document(int64_t i) const { return documents_[static_cast<size_t>(i)]; }

  int64_t last_chunk(int64_t i) const { return num_chunks(document(i), config_.chunk_size) - 1; }
  Window window(int64_t i, int64_t c) const {
    return chunk_window(document(i), c, config_.chunk_size, config_.window);
  }

  typename Pass<Device, T>::Capacity capacity(const Batches& batches, E4m3Mlp mlp) const {
    typename Pass<Device, T>::Capacity most{
        .for_backward = true, .lora = &layout_.config(), .mlp = mlp};
    for (const auto& batch : batches) {
      int64_t rows = 0;
      for (int64_t i : batch) rows += std::min(document(i).targets(), config_.window);
      const auto docs = static_cast<int64_t>(batch.size());
      most.rows = std::max(most.rows, rows);
      most.scored = std::max(most.scored, docs * config_.chunk_size);
      most.windows = std::max(most.windows, docs);
    }
    most.scored = std::min(most.scored, most.rows);
    return most;
  }

  void start(size_t b, int64_t i) {
    const int64_t at = static_cast<int64_t>(b) * learners_.stride;
    const size_t bytes = static_cast<size_t>(layout_.size()) * sizeof(float);
    if (init_.empty())
      init_lora(device_, layout_, config_.seed, static_cast<uint64_t>(i), learners_.adapters + at);
    else
      device_.upload(learners_.adapters + at, init_.data(), bytes);
    device_.zero(learners_.second + at, bytes);
    if (learners_.first) device_.zero(learners_.first + at, bytes);
  }

  AdapterBuffers buffers(size_t docs) const {
    AdapterBuffers buffers{.docs = static_cast<int64_t>(docs),
                           .adapters = learners_.adapters,
                           .stride = learners_.stride,
                           .copies = learners_.copied,
                           .copies_stride = copies_->stride(),
                           .second = learners_.second};
    if constexpr (std::is_same_v<T, bf16>) buffers.gradients = learners_.gradients;
    return buffers;
  }

  // One update of the first `docs` documents' adapters.
  void step(size_t docs, const AdamW& update) {
    if (copies_ && !learners_.first) {
      adamw_with_copies(device_, copies_->matrices(), buffers(docs), update);
      return;
    }
    adamw(device_, static_cast<int64_t>(docs) * learners_.stride, learners_.adapters,
          learners_.gradients, learners_.first, learners_.second, update);
    if (copies_) copy_adapters(device_, copies_->matrices(), buffers(docs));
  }

  // Chunk c of the first `docs` documents of the batch: score, then step.
  template <class F>
  void learn(const std::vector<int64_t>& batch, size_t docs, int64_t c, F&& score) {
    windows_.clear();
    for (size_t b = 0; b < docs; ++b) windows_.push_back(window(batch[b], c));
    for (int i = 0; i < config_.grad_steps; ++i) {
      if (i == 0)
        pass(true, score);
      else
        pass(true, [](const Window&, std::span<const float>) {});
      const AdamW update{.lr = config_.lr,
                         .beta1 = config_.beta1,
                         .beta2 = config_.beta2,
                         .eps = config_.eps,
                         .weight_decay = config_.weight_decay,
                         .step = c * config_.grad_steps + i + 1};
      step(docs, update);
    }
  }

  // windows_, of the first documents of the batch, through the network.
  template <class F>
  void pass(bool train, F&& score) {
    const PassLora<T> lora{
        &layout_, learners_.adapters, train ? learners_.gradients : nullptr, learners_.stride,
        copies_,  learners_.copied};
    auto scored = pass_.run(stream_, windows_, &lora);
    for (const Window& w : windows_) {
      score(w, scored.first(static_cast<size_t>(w.scored())));
      scored = scored.subspan(static_cast<size_t>(w.scored()));
    }
  }

  Device& device_;
  const TokenStream& stream_;
  std::span<const Document> documents_;
  const TttConfig& config_;
  const LoraLayout& layout_;
  const LoraCopies* copies_;  // null: nobody reads any
  Pass<Device, T> pass_;
  typename Device::Buffer memory_;
  Learners<T> learners_;
  std::vector<float> init_;  // a document's adapters as --lora-init has them, or empty
  std::vector<Window> windows_;
};

}  // namespace

template <class Device, class T>
void score_ttt(Device& device, const Network& net, const Weights<const T>& weights,
               const TokenStream& stream, std::span<const Document> documents,
               const TttConfig& config, int64_t pass_tokens, E4m3Mlp mlp, ProcessGroup& group,
               std::span<float> nll, const ScoreProgress& progress) {
  const LoraLayout layout(net.config, net.slots(),
                          {.rank = config.rank, .k = config.k, .o = config.o, .mlp = config.mlp});
  std::optional<LoraCopies> copies;
  if (reads_adapter_copies<T>(device) && LoraCopies::fit(layout))
    copies.emplace(layout, net.route, weights.attn_scale, weights.mlp_scale);
  const LoraCopies* const read = copies ? &*copies : nullptr;
  const TttLimits limits =
      ttt_limits<Device, T>(net, config, layout, read, mlp, pass_tokens, ttt_room(device, group));
  // Long documents first: they bound the memory, the time left is known early, and ranks end
  // together.
  const Batches batches = plan_batches(documents, config.chunk_size, config.window, limits.docs,
                                       limits.tokens, group.size());
  const auto queue = group.make_queue();
  const ScoreProgress report = [&](int64_t targets, double sum) {
    queue->poll();
    progress(targets, sum);
  };
  const auto keep = [&](const Window& w, std::span<const float> scored) {
    std::copy(scored.begin(), scored.end(), nll.begin() + w.score_from);
    report(w.scored(), std::accumulate(scored.begin(), scored.end(), 0.0));
  };
  if (!batches.empty()) {
    Ttt<Device, T> ttt(device, net, weights, stream, documents, config, layout, read, mlp, batches);
    for (int64_t b = queue->next(); b < std::ssize(batches); b = queue->next())
      ttt.run(batches[static_cast<size_t>(b)], keep);
  }
  // With B = 0 the adapters of a document's first chunk change nothing.
  const std::vector<Window> untrained = plan_untrained(documents, config.chunk_size);
  score_windows(device, net, weights, stream, plan_share(untrained, group.rank(), group.size()),
                pass_tokens, mlp, nll, report);
}

#define FAIRWAY_INSTANTIATE(Device, T)                                                          \
  template void score_ttt(Device&, const Network&, const Weights<const T>&, const TokenStream&, \
                          std::span<const Document>, const TttConfig&, int64_t, E4m3Mlp,        \
                          ProcessGroup&, std::span<float>, const ScoreProgress&);
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
