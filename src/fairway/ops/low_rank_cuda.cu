// Low-rank products on CUDA: the choice of kernels.
#include <algorithm>
#include <span>
#include <type_traits>

#include "fairway/base/check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/linear_adapted_sm90.cuh"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_mma_cuda.h"
#include "fairway/ops/low_rank_simt.cuh"
#include "fairway/ops/low_rank_sm90.h"
#include "fairway/ops/low_rank_wide_cuda.h"

namespace fairway {

using namespace cuda::low_rank_simt;

namespace {

// Whether the Hopper kernel takes it, whose tiles have whole chunks of columns, used or not.
bool fits_sm90(const CudaDevice& device, const LowRankDown<const float>& down, const bf16* x,
               const bf16* xa) {
  constexpr int64_t kChunk = 64;
  return device.capability() == 90 && down.width() % 32 == 0 &&
         cuda::adapters_fit(down.in, kChunk, down.docs, x) &&
         reinterpret_cast<uintptr_t>(xa) % 16 == 0;
}

// Whether there is anything to do.
template <class Pairs>
bool any(const Pairs& p) {
  check(p.docs <= 65535, "low_rank: too many documents");  // a dimension of some grids
  return p && p.docs > 0 && p.rank > 0;
}

// Adapters that all fit low_rank_fits_mma.
void ups_backward_on_tensor_cores(CudaDevice& device, std::span<const LowRankUpBackward<bf16>> ups,
                                  Tensor<const bf16> xa, Tensor<bf16> dxa) {
  const auto wide = [](const auto& one) { return low_rank_fits_wide(one.up, one.db); };
  if (std::all_of(ups.begin(), ups.end(), wide))
    for (const auto& one : ups) low_rank_up_backward_wide(device, one, xa, dxa);
  else if (low_rank_ups_backward_fits_sm90(device, ups, dxa))
    low_rank_ups_backward_sm90(device, ups, xa, dxa);
  else
    low_rank_ups_backward_mma(device, ups, xa, dxa);
}

}  // namespace

template <class T>
void low_rank_down(CudaDevice& device, Tensor<const T> x, const LowRankDown<const Accum<T>>& down,
                   Tensor<T> xa) {
  if (x.extent(0) == 0 || !any(down)) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (fits_sm90(device, down, x.data, xa.data)) {
      cuda::adapters_alone(device.stream(), cuda::adapters_down(device, x, down), x.extent(0),
                           down.width(), xa.data);
      return;
    }
    if (low_rank_fits_mma(down.rank, down.in, x.data, xa.data)) {
      low_rank_down_mma(device, x, down, xa);
      return;
    }
  }
  for (int i = 0; i < down.count; ++i)
    rows_times<false>(device, down, x.extent(0), x.data, down.in, down.in,
                      {down.a[static_cast<size_t>(i)], down.stride, 1, down.in},
                      xa.data + i * down.rank, down.rank, down.width());
}

template <class T>
void low_rank_up(CudaDevice& device, Tensor<const T> xa, const LowRankUp<const Accum<T>>& up,
                 Tensor<T> y) {
  if (y.extent(0) == 0 || !any(up)) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (low_rank_fits_mma(up.rank, up.out, xa.data, y.data)) {
      if (low_rank_fits_wide(up))
        low_rank_up_wide(device, xa, up, y);
      else
        low_rank_up_mma(device, xa, up, y);
      return;
    }
  rows_times<true>(device, up, y.extent(0), xa.data + up.place * up.rank, up.rank, xa.extent(1),
                   {up.b, up.stride, 1, up.rank, nullptr, up.out_scale}, y.data, up.out, up.out);
}

template <class T>
void low_rank_up_backward(CudaDevice& device, Tensor<const T> dy, Tensor<const T> xa,
                          const LowRankUp<const Accum<T>>& up, Tensor<T> dxa, T* db) {
  if (!any(up)) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (low_rank_fits_mma(up.rank, up.out, dy.data, dxa.data, xa.data)) {
      const LowRankUpBackward<T> one{up, dy, db};
      ups_backward_on_tensor_cores(device, {&one, 1}, xa, dxa);
      return;
    }
  const int64_t column = up.place * up.rank;
  if (dy.extent(0) > 0)
    rows_times<false>(device, up, dy.extent(0), dy.data, up.out, up.out,
                      {up.b, up.stride, up.rank, 1, up.out_scale, nullptr}, dxa.data + column,
                      up.rank, dxa.extent(1));
  if (db)
    gradient(device, up, dy.data, up.out, xa.data + column, xa.extent(1), db, up.stride, up.rank, 1,
             up.out_scale);
}

template <class T>
void low_rank_ups_backward(CudaDevice& device, std::span<const LowRankUpBackward<T>> ups,
                           Tensor<const T> xa, Tensor<T> dxa) {
  check(ups.size() <= kMaxLowRankGroup, "low_rank: too many adapters at once");
  if constexpr (std::is_same_v<T, bf16>) {
    const auto fits = [&](const LowRankUpBackward<T>& one) {
      return any(one.up) &&
             low_rank_fits_mma(one.up.rank, one.up.out, one.dy.data, dxa.data, xa.data);
    };
    if (!ups.empty() && std::all_of(ups.begin(), ups.end(), fits)) {
      ups_backward_on_tensor_cores(device, ups, xa, dxa);
      return;
    }
  }
  for (const auto& [up, dy, db] : ups) low_rank_up_backward<T>(device, dy, xa, up, dxa, db);
}

template <class T>
void low_rank_down_backward(CudaDevice& device, Tensor<const T> dxa, Tensor<const T> x,
                            const LowRankDown<const Accum<T>>& down, Tensor<T> dx,
                            const LowRankDown<T>& da) {
  if (!any(down)) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (low_rank_fits_mma(down.rank, down.in, dxa.data, x.data, dx.data)) {
      const bool sm90 = da && low_rank_down_gradient_fits_sm90(device, x.extent(0), da);
      low_rank_down_backward_mma(device, dxa, x, down, dx, sm90 ? LowRankDown<T>{} : da);
      if (sm90) low_rank_down_gradient_sm90(device, dxa, x, down, da);
      return;
    }
  for (int i = 0; i < down.count; ++i) {
    const auto at = static_cast<size_t>(i);
    const T* const columns = dxa.data + i * down.rank;
    if (dx && dx.extent(0) > 0)
      rows_times<true>(device, down, dx.extent(0), columns, down.rank, down.width(),
                       {down.a[at], down.stride, down.in, 1}, dx.data, down.in, down.in);
    if (da)
      gradient(device, down, x.data, down.in, columns, down.width(), da.a[at], da.stride, 1,
               down.in, nullptr);
  }
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void low_rank_down(CudaDevice&, Tensor<const T>, const LowRankDown<const Accum<T>>&, \
                              Tensor<T>);                                                       \
  template void low_rank_up(CudaDevice&, Tensor<const T>, const LowRankUp<const Accum<T>>&,     \
                            Tensor<T>);                                                         \
  template void low_rank_up_backward(CudaDevice&, Tensor<const T>, Tensor<const T>,             \
                                     const LowRankUp<const Accum<T>>&, Tensor<T>, T*);          \
  template void low_rank_ups_backward(CudaDevice&, std::span<const LowRankUpBackward<T>>,       \
                                      Tensor<const T>, Tensor<T>);                              \
  template void low_rank_down_backward(CudaDevice&, Tensor<const T>, Tensor<const T>,           \
                                       const LowRankDown<const Accum<T>>&, Tensor<T>,           \
                                       const LowRankDown<T>&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
