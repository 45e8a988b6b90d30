#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/elementwise_cpu.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/leaky_sq_cpu.h"
#include "fairway/ops/linear_adapted.h"
#include "fairway/ops/mlp_leaky_sq.h"
#include "fairway/ops/rms_norm.h"

namespace fairway {

template <class T>
void mlp_leaky_sq(CpuDevice& device, Tensor<const T> n, Tensor<const T> wup, Tensor<const T> wdown,
                  Tensor<const T> residual, const MlpHidden<T>& hidden, Tensor<T> y,
                  const LowRankAdded<T>& added) {
  const int64_t F = wup.extent(0), D = wup.extent(1), rows = n.size() / D;
  with_product_type<T>(device, [&]<class In>(In) {
    const In* up = as_inputs<In>(device, kSlotWeightA, wup.data, wup.size());
    const In* down = as_inputs<In>(device, kSlotWeightB, wdown.data, wdown.size());
    // A tile's hidden layer stays in cache between the two products.
    for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
      const int64_t tile = end - begin;
      T* f = tile_scratch<T>(device, kSlotTileC, tile * F);
      T* z = hidden.z ? hidden.z.data + begin * F : f;
      rows_times<In>(device, tile, F, D, n.data + begin * D, mat_t(up, D), z, false);
      leaky_sq_span(z, tile * F, f);
      if (residual && residual.data != y.data)
        std::copy_n(residual.data + begin * D, tile * D, y.data + begin * D);
      rows_times<In>(device, tile, D, F, f, mat_t(down, F), y.data + begin * D,
                     static_cast<bool>(residual));
    });
  });
  add_low_rank<T>(device, added, y);
}

template <class T>
void mlp_leaky_sq_backward(CpuDevice& device, Tensor<const T> dm, Tensor<const T> n,
                           const MlpHidden<T>& hidden, Tensor<const T> wup, Tensor<const T> wdown,
                           Tensor<T> dn, Tensor<T> dwup, Tensor<T> dwdown,
                           const LowRankAddedBack<T>& added, const MlpNormBack<T>& norm,
                           const MlpTransposed<T>&) {
  const int64_t F = wup.extent(0), D = wup.extent(1), rows = n.size() / D;
  const bool with_weights = dwup.data != nullptr;
  // f(z) lives here, and dz takes z's place: each is read by one more product below.
  const Tensor<T> z = hidden.z;
  const size_t bytes = with_weights ? static_cast<size_t>(rows * F) * sizeof(T) : 0;
  const Tensor<T> f{reinterpret_cast<T*>(device.shared_scratch(kSlotHidden, bytes)), {rows, F}};
  with_product_type<T>(device, [&]<class In>(In) {
    const In* up = as_inputs<In>(device, kSlotWeightA, wup.data, wup.size());
    const In* down = as_inputs<In>(device, kSlotWeightB, wdown.data, wdown.size());
    for_row_tiles(device, rows, [&](int64_t begin, int64_t end) {
      const int64_t tile = end - begin;
      T* zt = z.data + begin * F;
      T* df = tile_scratch<T>(device, kSlotTileC, tile * F);
      rows_times<In>(device, tile, F, D, dm.data + begin * D, mat(down, F), df, false);
      if (with_weights) leaky_sq_span(zt, tile * F, f.data + begin * F);
#pragma omp simd
      for (int64_t i = 0; i < tile * F; ++i) zt[i] = df[i] * leaky_sq_slope(zt[i]);
      rows_times<In>(device, tile, D, F, zt, mat(up, D), dn.data + begin * D, false);
    });
  });
  add_low_rank<T>(device, added, dn);
  if (with_weights) {
    linear_backward_weight<T>(device, dm, f, dwdown);
    linear_backward_weight<T>(device, z, n, dwup);
  }
  // Last: norm.dx may be dm.
  if (norm) rms_norm_backward<T>(device, dn, n, norm.rstd, norm.scale, norm.dx);
}

template <class T>
void leaky_sq(CpuDevice& device, const MlpHidden<T>& hidden, Tensor<T> f) {
  for_each_block(device, f.size(), [&](int64_t begin, int64_t n) {
    leaky_sq_span(hidden.z.data + begin, n, f.data + begin);
  });
}

#define FAIRWAY_INSTANTIATE(T)                                                                     \
  template void mlp_leaky_sq(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,        \
                             Tensor<const T>, const MlpHidden<T>&, Tensor<T>,                      \
                             const LowRankAdded<T>&);                                              \
  template void mlp_leaky_sq_backward(CpuDevice&, Tensor<const T>, Tensor<const T>,                \
                                      const MlpHidden<T>&, Tensor<const T>, Tensor<const T>,       \
                                      Tensor<T>, Tensor<T>, Tensor<T>, const LowRankAddedBack<T>&, \
                                      const MlpNormBack<T>&, const MlpTransposed<T>&);             \
  template void leaky_sq(CpuDevice&, const MlpHidden<T>&, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
