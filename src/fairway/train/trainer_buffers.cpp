#include "fairway/train/trainer_buffers.h"

#include <algorithm>
#include <type_traits>

#include "fairway/base/bf16.h"

namespace fairway {

template <class T>
TrainerBuffers<T> take_trainer_buffers(const ModelConfig& model, const TrainConfig& train,
                                       const Shard& shard, E4m3Mlp mlp, Arena& arena) {
  const Network plain(model, false), looped(model, true);
  const int64_t flat = flat_size(model), rows = train.micro_batch_tokens();
  TrainerBuffers<T> b;
  b.weights = arena.take<float>("weights", {flat});
  b.gradients = arena.take<float>("gradients", {flat});
  if constexpr (!std::is_same_v<T, float>)
    b.matrices = arena.take<T>("matrices for products", {matrices_size(model)});
  b.state = take_optim_state(shard, arena);
  b.inputs = arena.take<int32_t>("batch", {rows});
  b.targets = arena.take<int32_t>("batch", {rows});
  // Each token may start a segment, and the list is padded to a multiple of at most its own length.
  b.cu_seqlens = arena.take<int32_t>("batch", {2 * (rows + 1) + 64});
  b.nll = arena.take<float>("nll", {rows});
  b.d_nll = arena.take<float>("nll", {rows});
  b.sums = arena.take<StepSums>("nll", {1}).data;

  const size_t scratch =
      std::max({scratch_bytes<T>(plain, rows, rows, true),
                scratch_bytes<T>(looped, rows, rows, true), optim_scratch_bytes(shard)});
  b.scratch = arena.take<std::byte>("scratch", {static_cast<int64_t>(scratch)});

  const FoldedWeights<T> folded = take_folded<T>(model, mlp, arena);
  const auto acts_of = [&](const Network& net) {
    Acts<T> acts =
        take_acts<T>(model, net.route, rows, rows, /*for_backward=*/true, arena, nullptr, mlp);
    acts.folded = folded;
    return acts;
  };
  // Both routes use the same memory; the looped one is the longer.
  const size_t mark = arena.mark();
  if (!arena.dry()) {
    b.acts_plain = acts_of(plain);
    arena.release(mark);
  }
  b.acts_looped = acts_of(looped);
  return b;
}

template TrainerBuffers<float> take_trainer_buffers(const ModelConfig&, const TrainConfig&,
                                                    const Shard&, E4m3Mlp, Arena&);
template TrainerBuffers<bf16> take_trainer_buffers(const ModelConfig&, const TrainConfig&,
                                                   const Shard&, E4m3Mlp, Arena&);

}  // namespace fairway
