#include <initializer_list>
#include <type_traits>
#include <vector>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/ops/transpose_cuda.h"
#include "fairway/ops/transposed_weights.h"

namespace fairway {

namespace {

// Widths that Hopper's products have tiles for.
bool fits_sm90(const BackwardWeights<bf16>& w) {
  for (const auto& one : {w.wq, w.wk, w.wv, w.wo, w.wup, w.wdown})
    if (one && !cuda::widths_fit(one.extent(2), one.extent(1))) return false;
  return true;
}

TransposedWeights<bf16> transposed_sm90(CudaDevice& device, const BackwardWeights<bf16>& w) {
  int64_t elements = 0;
  for (const auto& one : {w.wq, w.wk, w.wv, w.wo, w.wup, w.wdown})
    if (one) elements += one.size();
  auto* to = reinterpret_cast<bf16*>(
      device.workspace(Workspace::weights, static_cast<size_t>(elements) * sizeof(bf16)));
  std::vector<cuda::Transpose> list;
  list.reserve(cuda::kMostTransposes);
  const auto beside = [&](std::initializer_list<Tensor<const bf16>> matrices) {
    const Tensor<const bf16>& first = *matrices.begin();
    if (!first) return Tensor<const bf16>{};
    int64_t all = 0, column = 0;
    for (const auto& one : matrices) all += one.extent(1);
    for (const auto& one : matrices) {
      list.push_back({one.data, to + column, one.extent(1), one.extent(2), all});
      column += one.extent(1);
    }
    const Tensor<const bf16> copies{to, {first.extent(0), first.extent(2), all}};
    to += copies.size();
    return copies;
  };
  const TransposedWeights<bf16> copies{
      beside({w.wq, w.wk, w.wv}), beside({w.wo}), {beside({w.wup}), beside({w.wdown})}};
  cuda::transpose(device.stream(), list, w.wq.extent(0));
  return copies;
}

}  // namespace

template <class T>
TransposedWeights<T> transposed_weights(CudaDevice& device, const BackwardWeights<T>& w) {
  if constexpr (std::is_same_v<T, bf16>)
    if (device.capability() == 90 && fits_sm90(w)) return transposed_sm90(device, w);
  return {};
}

#define FAIRWAY_INSTANTIATE(T) \
  template TransposedWeights<T> transposed_weights(CudaDevice&, const BackwardWeights<T>&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
