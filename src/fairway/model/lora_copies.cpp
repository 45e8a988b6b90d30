#include "fairway/model/lora_copies.h"

#include <numeric>

#include "fairway/base/check.h"

namespace fairway {

bool LoraCopies::fit(const LoraLayout& layout) {
  bool fit = layout.rank() % 8 == 0;
  layout.for_each([&](const std::string&, int64_t a, int64_t in, int64_t b, int64_t out) {
    fit = fit && (a | in | b | out) % 8 == 0;
  });
  return fit;
}

LoraCopies::LoraCopies(const LoraLayout& layout, const Route& route, Tensor<const float> attn_scale,
                       Tensor<const float> mlp_scale)
    : rank_(layout.rank()), in_(layout.head(static_cast<const float*>(nullptr)).in) {
  check(fit(layout) && std::ssize(route) == layout.slots(), "LoraCopies: adapters of other widths");
  const int64_t columns = layout.config().attn_columns();
  place_.resize(static_cast<size_t>(layout.slots() * kAdapters));
  int64_t size = 0;
  const auto take = [&](int64_t n) {
    const int64_t at = size;
    size += n;
    return at;
  };
  for (int s = 0; s < layout.slots(); ++s) {
    const int64_t layer = route[static_cast<size_t>(s)].layer;
    const int64_t a = take(columns * in_), transposed = take(columns * in_);
    int64_t before = 0;  // rows of A
    for (int i = 0; i < kAdapters; ++i) {
      const auto kind = static_cast<Adapter>(i);
      const LoraLayout::Place from = layout.place(s, kind);
      Place& to = place_[static_cast<size_t>(s * kAdapters + i)];
      // A place for k's B, even if it is switched off: the columns of k lie before those of v.
      if (kind == Adapter::k && from.in == 0) take(rank_ * layout.place(s, Adapter::v).out);
      if (from.in == 0) continue;
      if (kind == Adapter::mlp) {
        to = {take(rank_ * in_), take(rank_ * in_), rank_, take(rank_ * from.out)};
      } else {
        to = {a + before * in_, transposed + before, columns, take(rank_ * from.out)};
        before += rank_;
      }
      const float* scale = nullptr;
      if (kind == Adapter::o) scale = attn_scale.slice(layer).data;
      if (kind == Adapter::mlp) scale = mlp_scale.slice(layer).data;
      matrices_.push_back({.from = from.a,
                           .rows = rank_,
                           .columns = in_,
                           .to = to.a,
                           .transposed = to.transposed,
                           .pitch = to.pitch});
      matrices_.push_back(
          {.from = from.b, .rows = from.out, .columns = rank_, .scale = scale, .to = to.b});
    }
  }
  const LoraLayout::Place head = layout.head_place();
  matrices_.push_back({.from = head.a, .rows = rank_, .columns = head.in});
  matrices_.push_back({.from = head.b, .rows = head.out, .columns = rank_});
  // A whole number of 64 rows of every width.
  const int64_t unit = 64 * std::lcm(columns, in_);
  stride_ = (size + unit - 1) / unit * unit;
}

LowRankCopies LoraCopies::down(const bf16* docs, int s, std::span<const Adapter> kinds) const {
  const Place& first = place(s, kinds.front());
  for (size_t i = 1; i < kinds.size(); ++i)
    if (place(s, kinds[i]).transposed != first.transposed + static_cast<int64_t>(i) * rank_)
      return {};
  return {.matrix = docs + first.a,
          .transposed = docs + first.transposed,
          .pitch = first.pitch,
          .stride = stride_};
}

LowRankCopies LoraCopies::up(const bf16* docs, int s, Adapter kind) const {
  return {.matrix = docs + place(s, kind).b, .stride = stride_};
}

}  // namespace fairway
