// The output head: final norm, logits, softcap and loss, in chunks of rows whose logits fit the
// cache.
#include "fairway/model/head.h"

#include <algorithm>
#include <complex>
#include <vector>

#include "fairway/device/cpu_device.h"
#include "fairway/model/adapters.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear.h"
#include "fairway/ops/rms_norm.h"
#include "fairway/ops/softcap_xent.h"

namespace fairway {

namespace {

// Rows [begin, end) of the head, holding documents [first, last).
struct Chunk {
  int64_t begin, end;
  size_t first = 0, last = 0;
};

// Chunks of at most kHeadChunk rows; with adapters a chunk holds whole documents, or a single one.
template <class T>
std::vector<Chunk> head_chunks(int64_t rows, const Lora<T>* lora) {
  std::vector<Chunk> chunks;
  if (!lora) {
    for (int64_t begin = 0; begin < rows; begin += kHeadChunk)
      chunks.push_back({begin, std::min(rows, begin + kHeadChunk)});
    return chunks;
  }
  const auto& starts = lora->doc_head_rows;
  for (size_t doc = 0; doc + 1 < starts.size(); ++doc) {
    if (chunks.empty() || starts[doc + 1] - chunks.back().begin > kHeadChunk)
      chunks.push_back({starts[doc], starts[doc], doc, doc});
    chunks.back().end = starts[doc + 1];
    chunks.back().last = doc + 1;
  }
  return chunks;
}

template <class U>
Tensor<U> rows_of(Tensor<U> t, int64_t begin, int64_t end) {
  return {t.data + begin * t.extent(1), {end - begin, t.extent(1)}};
}

}  // namespace

template <class T>
HeadScratch<T> take_head_scratch(const ModelConfig& config, int64_t head_rows, bool for_backward,
                                 Arena& arena) {
  const int64_t rows = std::min(head_rows, kHeadChunk);
  HeadScratch<T> scratch;
  scratch.logits = arena.take<T>("logits", {rows, config.vocab_size});
  if (for_backward) scratch.d_head_in = arena.take<T>("head gradients", {rows, config.model_dim});
  return scratch;
}

template <class Device, class T>
void head_loss(Device& device, const Network& net, const Weights<const T>& w,
               const Lora<const T>* lora, const Batch& batch, const Acts<T>& acts, Tensor<T> nll,
               const T* d_nll, const Weights<T>* dweights, const Lora<T>* dlora, Arena arena) {
  const int64_t D = net.config.model_dim, V = net.config.vocab_size, N = batch.N();
  const HeadScratch<T> scratch = take_head_scratch<T>(net.config, N, d_nll != nullptr, arena);
  const auto row_of = [&](int64_t n) { return batch.rows ? batch.rows[n] : n; };

  // Gather the rows that are scored, then norm them where they lie.
  for (int64_t n = 0; n < N; ++n)
    std::copy_n(acts.final_x.data + row_of(n) * D, D, acts.head_in.data + n * D);
  rms_norm<T>(device, acts.head_in, net.config.norm_eps, 1.0, acts.head_rstd, acts.head_in);
  if (d_nll) std::fill(acts.d_final_x.begin(), acts.d_final_x.end(), T{});

  for (const Chunk& chunk : head_chunks(N, lora)) {
    const int64_t begin = chunk.begin, rows = chunk.end - begin;
    check(rows <= scratch.logits.extent(0), "head_loss: a document with more rows than a chunk");
    const Tensor<T> x = rows_of(acts.head_in, begin, chunk.end);
    const Tensor<T> z = rows_of(scratch.logits, 0, rows);
    const auto adapters = Adapters<const T>::head(lora, chunk.first, chunk.last);
    linear<T>(device, x, w.head(), z, false);
    adapt<Device, T>(device, adapters, x, z);
    softcap_xent<T>(device, z, {batch.targets.data + begin, {rows}}, net.config.logit_softcap,
                    d_nll ? d_nll + begin : nullptr, {nll.data + begin, {rows}});
    if (!d_nll) continue;

    const Tensor<T> dx = rows_of(scratch.d_head_in, 0, rows);
    linear_backward_input<T>(device, z, w.head(), dx, false);
    adapt_backward<Device, T>(device, adapters, z, x, dx,
                              Adapters<T>::head(dlora, chunk.first, chunk.last));
    if (dweights) linear_backward_weight<T>(device, z, x, dweights->head());
    // The norm's backward, from its output x = x_raw·rstd: x_raw is no longer needed.
    for (int64_t r = 0; r < rows; ++r) {
      const T* xr = x.data + r * D;
      const T* dxr = dx.data + r * D;
      T* out = acts.d_final_x.data + row_of(begin + r) * D;
      T mean{};
      for (int64_t j = 0; j < D; ++j) mean += dxr[j] * xr[j];
      mean /= T(static_cast<float>(D));
      const T rstd = acts.head_rstd[begin + r];
      for (int64_t j = 0; j < D; ++j) out[j] = rstd * (dxr[j] - xr[j] * mean);
    }
  }
  (void)V;
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template HeadScratch<T> take_head_scratch(const ModelConfig&, int64_t, bool, Arena&);            \
  template void head_loss(CpuDevice&, const Network&, const Weights<const T>&,                     \
                          const Lora<const T>*, const Batch&, const Acts<T>&, Tensor<T>, const T*, \
                          const Weights<T>*, const Lora<T>*, Arena);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
