// The output head: final norm, logits, softcap and loss, in chunks of rows whose logits fit the
// cache.
#include "fairway/model/head.h"

#include <algorithm>
#include <vector>

#include "fairway/model/adapters.h"
#include "fairway/model/instantiate.h"
#include "fairway/ops/linear_xent.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

namespace {

// Rows [begin, end) of the head, holding documents [first, last).
struct Chunk {
  int64_t begin, end;
  int64_t first = 0, last = 0;
};

// Chunks of at most `most` rows; with adapters a chunk holds whole documents, or a single one.
template <class T>
std::vector<Chunk> head_chunks(int64_t rows, const Lora<T>* lora, int64_t most) {
  std::vector<Chunk> chunks;
  if (!lora) {
    for (int64_t begin = 0; begin < rows; begin += most)
      chunks.push_back({begin, std::min(rows, begin + most)});
    return chunks;
  }
  const std::span<const int32_t> starts = lora->host_doc_head_rows;
  for (int64_t doc = 0; doc < lora->count; ++doc) {
    const int64_t begin = starts[static_cast<size_t>(doc)];
    const int64_t end = starts[static_cast<size_t>(doc + 1)];
    if (chunks.empty() || end - chunks.back().begin > most)
      chunks.push_back({begin, begin, doc, doc});
    chunks.back().end = end;
    chunks.back().last = doc + 1;
  }
  return chunks;
}

template <class U>
Tensor<U> rows_of(Tensor<U> t, int64_t begin, int64_t end) {
  return {t.data + begin * t.extent(1), {end - begin, t.extent(1)}};
}

// linear_xent of a head with adapters: between its steps, what they add.
template <class Device, class T>
void adapted_xent(Device& device, const LinearXent<T>& in, const Lora<const Accum<T>>& lora,
                  const Lora<T>* dlora, const Chunk& chunk, const HeadScratch<T>& scratch,
                  Tensor<T> z, const LinearXentOut<T>& out) {
  const int64_t rows = z.extent(0);
  const auto down = head_down(&lora, chunk.first, chunk.last);
  const auto up = head_up(&lora, chunk.first, chunk.last);
  const Tensor<T> xa = rows_of(scratch.xa, 0, rows);
  linear<T>(device, in.x, in.w, z, false);
  adapt_down<Device, T>(device, down, in.x, xa);
  adapt_up<Device, T>(device, up, xa, z);
  softcap_xent<T>(device, z, in.targets, in.cap, in.d_nll, out.nll);
  if (!in.d_nll) return;

  const Tensor<T> dxa = rows_of(scratch.dxa, 0, rows);
  linear_backward_input<T>(device, z, in.w, out.dx, false);
  adapt_up_backward<Device, T>(device, up, z, xa, dxa, head_up(dlora, chunk.first, chunk.last));
  adapt_down_backward<Device, T>(device, down, dxa, in.x, out.dx,
                                 head_down(dlora, chunk.first, chunk.last));
  if (out.dw) linear_backward_weight<T>(device, z, in.x, out.dw);
}

}  // namespace

template <class T>
HeadScratch<T> take_head_scratch(const ModelConfig& config, int64_t head_rows, bool for_backward,
                                 Arena& arena, const LoraConfig* lora) {
  const int64_t rows = std::min(head_rows, kHeadChunk<T>);
  HeadScratch<T> scratch;
  scratch.logits = arena.take<T>("logits", {rows, config.vocab_size});
  if (for_backward) scratch.d_head_in = arena.take<T>("head gradients", {rows, config.model_dim});
  if (lora) scratch.xa = arena.take<T>("adapters", {rows, lora->rank});
  if (lora && for_backward) scratch.dxa = arena.take<T>("adapters", {rows, lora->rank});
  return scratch;
}

template <class Device, class T>
void head_loss(Device& device, const Network& net, const Weights<const T>& w,
               const Lora<const Accum<T>>* lora, const Batch& batch, const Acts<T>& acts,
               Tensor<Accum<T>> nll, const Accum<T>* d_nll, const Weights<Accum<T>>* dweights,
               const Lora<T>* dlora, Arena arena) {
  const int64_t N = batch.N();
  const HeadScratch<T> scratch = take_head_scratch<T>(net.config, N, d_nll != nullptr, arena,
                                                      lora ? &lora->layout->config() : nullptr);
  rms_norm<T>(device, acts.final_x, net.config.norm_eps, 1.0, acts.head_rstd, acts.head_in);

  for (const Chunk& chunk : head_chunks(N, lora, kHeadChunk<T>)) {
    const int64_t begin = chunk.begin, rows = chunk.end - begin;
    check(rows <= scratch.logits.extent(0), "head_loss: a document with more rows than a chunk");
    const Tensor<T> x = rows_of(acts.head_in, begin, chunk.end);
    const Tensor<T> z = rows_of(scratch.logits, 0, rows), dx = rows_of(scratch.d_head_in, 0, rows);
    const Tensor<Accum<T>> rstd{acts.head_rstd.data + begin, {rows}};
    const LinearXent<T> in{x,
                           w.head(),
                           {batch.targets.data + begin, {rows}},
                           net.config.logit_softcap,
                           d_nll ? d_nll + begin : nullptr};
    const LinearXentOut<T> out{
        {nll.data + begin, {rows}}, dx, rstd, dweights ? dweights->head() : Tensor<Accum<T>>{}};
    if (lora)
      adapted_xent<Device, T>(device, in, *lora, dlora, chunk, scratch, z, out);
    else
      linear_xent<T>(device, in, z, out);
    if (d_nll)
      rms_norm_backward_write<T>(device, dx, x, rstd, rows_of(acts.d_final_x, begin, chunk.end));
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                         \
  template HeadScratch<T> take_head_scratch(const ModelConfig&, int64_t, bool, Arena&, \
                                            const LoraConfig*);
FAIRWAY_FOR_ELEMENTS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

#define FAIRWAY_INSTANTIATE(Device, T)                                                 \
  template void head_loss(Device&, const Network&, const Weights<const T>&,            \
                          const Lora<const Accum<T>>*, const Batch&, const Acts<T>&,   \
                          Tensor<Accum<T>>, const Accum<T>*, const Weights<Accum<T>>*, \
                          const Lora<T>*, Arena);
FAIRWAY_FOR_MODELS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
