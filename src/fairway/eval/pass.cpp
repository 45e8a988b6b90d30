#include "fairway/eval/pass.h"

#include <algorithm>
#include <cmath>

#include "fairway/device/run_types.h"
#include "fairway/ops/adapter_copies.h"

namespace fairway {

namespace {

// Test-time training takes its documents chunk by chunk, each with a longer window, up to the
// longest, and then begins again with other documents: the windows of a batch have 64 lengths by
// default.
constexpr size_t kGraphs = 96;

int64_t address(const void* p) {
  return static_cast<int64_t>(reinterpret_cast<intptr_t>(p));
}

}  // namespace

template <class Device, class T>
size_t Pass<Device, T>::folded_bytes(const Network& net, const Capacity& capacity) {
  Arena dry;
  take_folded<T>(net.config, capacity.mlp, dry);
  return dry.peak();
}

template <class Device, class T>
size_t Pass<Device, T>::layout_bytes(const Network& net, const Capacity& capacity) {
  // Where only some rows are scored, the last visit needs less of most things, but a few of its
  // own.
  Capacity fewer = capacity;
  fewer.scored = std::min(capacity.scored, capacity.rows - 1);
  Arena dry, dry_fewer;
  take(net, capacity, dry);
  take(net, fewer, dry_fewer);
  return std::max(dry.peak(), dry_fewer.peak());
}

template <class Device, class T>
size_t Pass<Device, T>::bytes(const Network& net, const Capacity& capacity) {
  return folded_bytes(net, capacity) + layout_bytes(net, capacity);
}

template <class Device, class T>
Pass<Device, T>::Pass(Device& device, const Network& net, const Weights<const T>& weights,
                      const Capacity& capacity)
    : device_(device),
      net_(net),
      weights_(weights),
      capacity_(capacity),
      folded_memory_(device.allocate(folded_bytes(net, capacity))),
      memory_(device.allocate(layout_bytes(net, capacity))),
      forward_(device, kGraphs),
      backward_(device, kGraphs) {
  Arena arena(folded_memory_.data(), folded_memory_.bytes());
  folded_ = take_folded<T>(net.config, capacity.mlp, arena);
  fold_weights(device_, net.config, weights_, folded_);
}

// All but the folded weights, which are the pass's.
template <class Device, class T>
typename Pass<Device, T>::Layout Pass<Device, T>::take(const Network& net, const Capacity& size,
                                                       Arena& arena) {
  Layout l;
  l.inputs = arena.take<int32_t>("inputs", {size.rows});
  l.cu_seqlens = arena.take<int32_t>("cu_seqlens", {size.windows + 1});
  l.rows = arena.take<int32_t>("rows", {size.scored});
  l.targets = arena.take<int32_t>("targets", {size.scored});
  l.cu_rows = arena.take<int32_t>("cu_seqlens", {size.windows + 1});
  if (size.lora) {
    const auto take_tiles = [&](int64_t rows) {
      return arena.take<int32_t>("row tiles", {num_adapter_row_tiles(rows, size.windows), 4});
    };
    l.row_tiles = take_tiles(size.rows);
    l.head_row_tiles = take_tiles(size.scored);
  }
  l.nll = arena.take<float>("nll", {size.scored});
  l.d_nll = arena.take<float>("d_nll", {size.scored});
  l.acts = take_acts<T>(net.config, net.route, size.rows, size.scored, size.for_backward, arena,
                        size.lora, size.mlp);
  const auto bytes = static_cast<int64_t>(
      scratch_bytes<T>(net, size.rows, size.scored, size.for_backward, size.lora));
  l.scratch = Arena(arena.take<std::byte>("scratch", {bytes}).data, static_cast<size_t>(bytes));
  return l;
}

template <class Device, class T>
std::span<const float> Pass<Device, T>::run(const TokenStream& stream,
                                            std::span<const Window> windows,
                                            const PassLora<T>* lora) {
  const bool train = lora && lora->gradients;
  inputs_.clear();
  cu_seqlens_.assign(1, 0);
  rows_.clear();
  targets_.clear();
  d_nll_.clear();
  cu_rows_.assign(1, 0);
  for (const Window& w : windows) {
    const auto row = static_cast<int32_t>(inputs_.size());
    inputs_.resize(inputs_.size() + static_cast<size_t>(w.rows()));
    stream.copy(w.begin, w.rows(), inputs_.data() + row);
    cu_seqlens_.push_back(static_cast<int32_t>(inputs_.size()));
    for (int64_t t = w.score_from; t < w.end; ++t)
      rows_.push_back(row + static_cast<int32_t>(t - w.begin));
    const size_t scored = targets_.size();
    targets_.resize(rows_.size());
    stream.copy(w.score_from + 1, w.scored(), targets_.data() + scored);
    d_nll_.resize(rows_.size(), 1.0f / static_cast<float>(w.scored()));
    cu_rows_.push_back(static_cast<int32_t>(rows_.size()));
  }
  const Capacity size{static_cast<int64_t>(inputs_.size()), static_cast<int64_t>(rows_.size()),
                      static_cast<int64_t>(windows.size()), train,
                      lora ? capacity_.lora : nullptr,      capacity_.mlp};
  check(size.rows <= capacity_.rows && size.scored <= capacity_.scored &&
            size.windows <= capacity_.windows && (!train || capacity_.for_backward) &&
            (!lora || capacity_.lora),
        "Pass::run: more than its capacity");

  Arena arena(memory_.data(), memory_.bytes());
  Layout l = take(net_, size, arena);
  l.acts.folded = folded_;
  const auto upload = [&](auto tensor, const auto& host) {
    device_.upload(tensor.data, host.data(), host.size() * sizeof(host[0]));
  };
  upload(l.inputs, inputs_);
  upload(l.cu_seqlens, cu_seqlens_);
  upload(l.rows, rows_);
  upload(l.targets, targets_);
  if (train) upload(l.d_nll, d_nll_);
  upload(l.cu_rows, cu_rows_);
  if (lora && lora->copies) {
    upload(l.row_tiles, adapter_row_tiles(cu_seqlens_));
    upload(l.head_row_tiles, adapter_row_tiles(cu_rows_));
  }
  // Without a list of rows all of them reach the head.
  Batch batch{l.inputs, l.cu_seqlens, {}, {}, l.targets};
  if (size.scored < size.rows) {
    batch.rows = l.rows;
    batch.cu_rows = l.cu_rows;
  }
  int64_t longest = 0;
  for (const Window& w : windows) longest = std::max(longest, w.rows());
  Lora<const float> adapters;
  Lora<T> gradients;
  if (lora) {
    const auto view = [&]<class U>(U* docs) {
      return Lora<U>{lora->layout,
                     docs,
                     lora->stride,
                     size.windows,
                     l.cu_seqlens,
                     l.cu_rows,
                     cu_rows_,
                     lora->copies,
                     lora->copied,
                     l.row_tiles.data,
                     l.head_row_tiles.data,
                     longest};
    };
    adapters = view(lora->docs);
    gradients = view(lora->gradients);
  }
  const Lora<const float>* with = lora ? &adapters : nullptr;
  const Lora<T>* into = train ? &gradients : nullptr;

  // What the work depends on beside the pass's own: sizes, adapters, and the rows of each document,
  // by which the host cuts the head's work.
  GraphKey key{size.rows, size.scored, size.windows, train};
  if (lora) {
    key.insert(key.end(), {address(lora->layout), address(lora->docs), address(lora->gradients),
                           lora->stride, address(lora->copied), longest});
    key.insert(key.end(), cu_rows_.begin(), cu_rows_.end());
  }
  forward_.run(key, [&] {
    forward(device_, net_, weights_, with, batch, l.acts, l.scratch);
    head_loss(device_, net_, weights_, with, batch, l.acts, l.nll, train ? l.d_nll.data : nullptr,
              static_cast<const Weights<float>*>(nullptr), into, l.scratch);
  });
  // Before the backward, which runs beside what the host does with the scores.
  nll_.resize(rows_.size());
  device_.download(nll_.data(), l.nll.data, nll_.size() * sizeof(float));
  if (train)
    backward_.run(key, [&] {
      backward(device_, net_, weights_, with, batch, l.acts,
               static_cast<const Weights<float>*>(nullptr), into, l.scratch);
    });

  size_t i = 0;
  for (const Window& w : windows)
    for (int64_t t = w.score_from; t < w.end; ++t, ++i)
      require(
          std::isfinite(nll_[i]),
          "the nll of token {} of the stream is {}: the model's weights are broken or too large",
          t + 1, nll_[i]);
  return nll_;
}

#define FAIRWAY_INSTANTIATE(Device, T) template class Pass<Device, T>;
FAIRWAY_FOR_RUNS(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
