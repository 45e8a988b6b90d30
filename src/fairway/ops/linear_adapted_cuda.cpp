// bf16 on Hopper: one product, which the adapters make a little longer. Elsewhere, step by step.
#include <type_traits>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/linear_adapted_sm90.cuh"
#include "fairway/ops/linear_sm90.cuh"
#include "fairway/ops/transpose_cuda.h"

namespace fairway {

namespace {

// Widths and adapters that the Hopper kernels have tiles for.
bool fits_sm90(const CudaDevice& device, Tensor<const bf16> w) {
  return device.capability() == 90 && cuda::widths_fit(w.extent(1), w.extent(0));
}
bool fits_sm90(const LowRankAddedBack<bf16>& added, int64_t in) {
  return added && cuda::adapters_fit(added.down.rank, in, added.down.docs, added.dxa.data);
}

}  // namespace

template <class T>
void linear_adapted(CudaDevice& device, Tensor<const T> x, Tensor<const T> w,
                    Tensor<const T> residual, const LowRankAdded<T>& added, Tensor<T> y) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t out = w.extent(0), in = w.extent(1), rows = x.size() / in;
    if (added && rows > 0 && fits_sm90(device, w) &&
        cuda::adapters_fit(added.up.rank, out, added.up.docs, added.xa.data)) {
      const auto adapters = cuda::adapters_up(device, rows, added.xa, {added.up}, {out});
      cuda::linear_adapted(device.stream(), x.data, w.data, residual.data, adapters, rows, in, out,
                           y.data);
      return;
    }
  }
  linear_adapted_steps<T>(device, x, w, residual, added, y);
}

template <class T>
void linear_adapted_backward_input(CudaDevice& device, Tensor<const T> dy, Tensor<const T> w,
                                   const LowRankAddedBack<T>& added, Tensor<T> dx,
                                   Tensor<const T> given_transposed) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t out = w.extent(0), in = w.extent(1), rows = dy.size() / out;
    if (rows > 0 && fits_sm90(device, w) && fits_sm90(added, in)) {
      const bf16* const w_transposed = cuda::transposed<1>(device, {w}, given_transposed);
      const auto adapters = cuda::adapters_down_backward(device, rows, added.dxa, added.down);
      cuda::linear_adapted(device.stream(), dy.data, w_transposed, nullptr, adapters, rows, out, in,
                           dx.data);
      return;
    }
  }
  linear_adapted_backward_input_steps<T>(device, dy, w, added, dx);
}

template <class T>
void linear_three_adapted_backward_input(CudaDevice& device, const LinearThree<T>& maps,
                                         const LowRankAddedBack<T>& added, Tensor<T> dx) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t rows = dx.extent(0), in = dx.extent(1);
    if (rows > 0 && fits_sm90(device, maps.w[0]) && fits_sm90(device, maps.w[1]) &&
        fits_sm90(device, maps.w[2]) && fits_sm90(added, in)) {
      const bf16* const dy[3] = {maps.dy[0].data, maps.dy[1].data, maps.dy[2].data};
      const int64_t out[3] = {maps.w[0].extent(0), maps.w[1].extent(0), maps.w[2].extent(0)};
      const bf16* const w_transposed = cuda::transposed(device, maps.w, maps.w_transposed);
      const auto adapters = cuda::adapters_down_backward(device, rows, added.dxa, added.down);
      cuda::linear_three_adapted_backward_input(device.stream(), dy, w_transposed, adapters, rows,
                                                in, out, dx.data);
      return;
    }
  }
  linear_three_adapted_backward_input_steps<T>(device, maps, added, dx);
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template void linear_adapted(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                               const LowRankAdded<T>&, Tensor<T>);                             \
  template void linear_adapted_backward_input(CudaDevice&, Tensor<const T>, Tensor<const T>,   \
                                              const LowRankAddedBack<T>&, Tensor<T>,           \
                                              Tensor<const T>);                                \
  template void linear_three_adapted_backward_input(CudaDevice&, const LinearThree<T>&,        \
                                                    const LowRankAddedBack<T>&, Tensor<T>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
