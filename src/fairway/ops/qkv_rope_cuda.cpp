// bf16 on Hopper: one product, whose epilogue does the rest. Elsewhere, step by step.
#include <type_traits>

#include "fairway/device/cuda_device.h"
#include "fairway/ops/adapter_operands_sm90.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/qkv_rope.h"
#include "fairway/ops/qkv_rope_sm90.cuh"

namespace fairway {

namespace {

// Heads of q, and of k and v each: none where they are left out.
int64_t q_heads(const QkvRotated<bf16>& out) {
  return out.q_rot ? out.q_rot.extent(1) : 0;
}
int64_t kv_heads(const QkvRotated<bf16>& out) {
  return out.k_rot ? out.k_rot.extent(1) : 0;
}
int64_t head_width(const QkvRotated<bf16>& out) {
  return (out.q_rot ? out.q_rot : out.k_rot).extent(2);
}

bool fits_sm90(const CudaDevice& device, Tensor<const bf16> n, const QkvMaps<bf16>& maps,
               const QkvRotated<bf16>& out) {
  return device.capability() == 90 &&
         cuda::qkv_rope_fits(n.extent(1), head_width(out), maps.cosine.extent(1));
}

cuda::QkvRope operands(Tensor<const bf16> n, const QkvMaps<bf16>& maps,
                       const QkvRotated<bf16>& out) {
  return {.n = n.data,
          .wq = maps.wq.data,
          .wk = maps.wk.data,
          .wv = maps.wv.data,
          .q_gain = maps.q_gain.data,
          .cosine = maps.cosine.data,
          .sine = maps.sine.data,
          .eps = static_cast<float>(maps.eps),
          .rows = n.extent(0),
          .width = n.extent(1),
          .heads = q_heads(out),
          .kv_heads = kv_heads(out),
          .half = maps.cosine.extent(1),
          .q_rot = out.q_rot.data,
          .k_rot = out.k_rot.data,
          .v = out.v.data,
          .rstd_q = out.rstd_q.data,
          .rstd_k = out.rstd_k.data};
}

}  // namespace

template <class T>
void qkv_rope(CudaDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
              const QkvRotated<T>& out) {
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_sm90(device, n, maps, out)) {
      cuda::qkv_rope(device.stream(), operands(n, maps, out));
      return;
    }
  qkv_rope_steps<T>(device, n, maps, {}, out);
}

template <class T>
void qkv_rope_adapted(CudaDevice& device, Tensor<const T> n, const QkvMaps<T>& maps,
                      const QkvAdapters<T>& adapters, const QkvRotated<T>& out) {
  const auto& any = adapters.q ? adapters.q : adapters.k ? adapters.k : adapters.v;
  if (!any) {
    qkv_rope<T>(device, n, maps, out);
    return;
  }
  if constexpr (std::is_same_v<T, bf16>) {
    const int64_t d = head_width(out), q = q_heads(out) * d, kv = kv_heads(out) * d;
    const int64_t rows = n.extent(0);
    if (rows > 0 && fits_sm90(device, n, maps, out) &&
        cuda::qkv_rope_adapted_fits(q_heads(out), kv_heads(out)) &&
        cuda::adapters_fit(any.rank, q + 2 * kv, any.docs, adapters.xa.data)) {
      const cuda::AdapterOperands added = cuda::adapters_up(
          device, rows, adapters.xa, {adapters.q, adapters.k, adapters.v}, {q, kv, kv});
      cuda::qkv_rope(device.stream(), operands(n, maps, out), &added);
      return;
    }
  }
  qkv_rope_steps<T>(device, n, maps, adapters, out);
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template void qkv_rope(CudaDevice&, Tensor<const T>, const QkvMaps<T>&, const QkvRotated<T>&); \
  template void qkv_rope_adapted(CudaDevice&, Tensor<const T>, const QkvMaps<T>&,                \
                                 const QkvAdapters<T>&, const QkvRotated<T>&);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
