// bf16 on Hopper: one product, whose epilogue does the rest. Elsewhere, step by step.
#include <type_traits>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/qkv_rope.h"
#include "fairway/ops/qkv_rope_sm90.cuh"

namespace fairway {

template <class T>
void qkv_rope(CudaDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
              const QkvRotated<T>& out) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t rows = n.extent(0), width = n.extent(1), half = maps.cosine.extent(1);
    if (device.capability() == 90 && cuda::qkv_rope_fits(width, out.q_rot.extent(2), half)) {
      cuda::qkv_rope(device.stream(), {.n = n.data,
                                       .wq = maps.wq.data,
                                       .wk = maps.wk.data,
                                       .wv = maps.wv.data,
                                       .q_gain = maps.q_gain.data,
                                       .cosine = maps.cosine.data,
                                       .sine = maps.sine.data,
                                       .eps = static_cast<float>(maps.eps),
                                       .rows = rows,
                                       .width = width,
                                       .heads = out.q_rot.extent(1),
                                       .kv_heads = out.k_rot.extent(1),
                                       .half = half,
                                       .q_rot = out.q_rot.data,
                                       .k_rot = out.k_rot.data,
                                       .v = out.v.data,
                                       .rstd_q = out.rstd_q.data,
                                       .rstd_k = out.rstd_k.data});
      return;
    }
  }
  qkv_products<T>(device, n, maps, out);
  qk_rope<T>(device, maps, out);
}

template void qkv_rope(CudaDevice&, Tensor<const float>, const QkvMaps<float>&,
                       const QkvRotated<float>&);
template void qkv_rope(CudaDevice&, Tensor<const bf16>, const QkvMaps<bf16>&,
                       const QkvRotated<bf16>&);

}  // namespace fairway
