#include "fairway/eval/ttt_memory.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "fairway/device/run_types.h"
#include "fairway/eval/pass.h"

namespace fairway {

template <class T>
Learners<T>::Learners(Arena& arena, const LoraLayout& layout, const LoraCopies* copies,
                      int64_t docs, const TttConfig& config)
    : stride((layout.size() + 15) / 16 * 16) {
  const auto take = [&](std::string_view name) {
    return arena.take<float>(name, {docs * stride}).data;
  };
  adapters = take("adapters");
  gradients = arena.take<T>("gradients", {docs * stride}).data;
  second = take("second moments");
  if (config.beta1 > 0) first = take("first moments");
  if (copies) copied = arena.take<bf16>("copies of adapters", {docs * copies->stride()}).data;
}
template struct Learners<float>;
template struct Learners<bf16>;

namespace {

// Of the memory that is free, the part that batches may take: ops have scratch of their own.
constexpr double kPartOfFree = 0.9;
// Memory is shared out for documents whose longest windows have so many tokens on average; batches
// of longer ones are full sooner, and so are those of more documents than that leaves room for.
constexpr double kTokensOfDoc = 1536;

double smallest(ProcessGroup& group, double own) {
  for (const auto& bytes : group.gather(std::as_bytes(std::span(&own, 1)))) {
    double other = 0;
    std::memcpy(&other, bytes.data(), sizeof other);
    own = std::min(own, other);
  }
  return group.broadcast(own);
}

}  // namespace

template <class Device, class T>
int64_t ttt_bytes(const Network& net, const TttConfig& config, const LoraLayout& layout,
                  const LoraCopies* copies, E4m3Mlp mlp, int64_t docs, int64_t tokens) {
  Arena dry;
  Learners<T>(dry, layout, copies, docs, config);
  const size_t pass =
      Pass<Device, T>::bytes(net, {.rows = tokens,
                                   .scored = std::min(docs * config.chunk_size, tokens),
                                   .windows = docs,
                                   .for_backward = true,
                                   .lora = &layout.config(),
                                   .mlp = mlp});
  return static_cast<int64_t>(dry.peak() + pass);
}

template <class Device, class T>
TttLimits ttt_limits(const Network& net, const TttConfig& config, const LoraLayout& layout,
                     const LoraCopies* copies, E4m3Mlp mlp, int64_t pass_tokens, double room) {
  TttLimits limits{
      .docs = config.batch_docs > 0 ? config.batch_docs : kTrainedDocs<Device>,
      .tokens = pass_tokens > 0 ? pass_tokens : kTrainedTokens<Device, T>,
  };
  if (std::isinf(room)) return limits;
  // As good as linear in both: what some documents take, and what more add.
  const auto bytes = [&](int64_t docs, int64_t tokens) {
    return static_cast<double>(
        ttt_bytes<Device, T>(net, config, layout, copies, mlp, docs, tokens));
  };
  constexpr int64_t kDocs = 64;
  const int64_t tokens = kDocs * std::max<int64_t>(1024, 2 * config.chunk_size);
  const double some = bytes(kDocs, tokens);
  const double of_doc = (bytes(2 * kDocs, tokens) - some) / kDocs;
  const double of_token = (bytes(kDocs, 2 * tokens) - some) / static_cast<double>(tokens);
  room -= some - kDocs * of_doc - static_cast<double>(tokens) * of_token;

  const auto at_most = [](int64_t& limit, double most) {
    if (most < static_cast<double>(limit)) limit = std::max<int64_t>(1, static_cast<int64_t>(most));
  };
  const double even = room / (of_doc + kTokensOfDoc * of_token);
  at_most(limits.tokens, kTokensOfDoc * even);
  at_most(limits.docs, (room - static_cast<double>(limits.tokens) * of_token) / of_doc);
  return limits;
}

template <class Device>
double ttt_room(const Device& device, ProcessGroup& group) {
  if constexpr (std::is_same_v<Device, CpuDevice>)
    return std::numeric_limits<double>::infinity();
  else
    return smallest(group, kPartOfFree * static_cast<double>(device.free_bytes()));
}

template double ttt_room(const CpuDevice&, ProcessGroup&);
#if FAIRWAY_WITH_CUDA
template double ttt_room(const CudaDevice&, ProcessGroup&);
#endif

#define FAIRWAY_INSTANTIATE(Device, T)                                                          \
  template int64_t ttt_bytes<Device, T>(const Network&, const TttConfig&, const LoraLayout&,    \
                                        const LoraCopies*, E4m3Mlp, int64_t, int64_t);          \
  template TttLimits ttt_limits<Device, T>(const Network&, const TttConfig&, const LoraLayout&, \
                                           const LoraCopies*, E4m3Mlp, int64_t, double);
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
