#include "fairway/device/cuda_device.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_varlen_cuda.cuh"

namespace fairway {

namespace {

constexpr int kTilesSlot = 0;  // of CudaDevice::workspace

struct Call {
  cuda::AttentionShape shape;
  std::byte* workspace;
  size_t bytes;
};

template <class T>
Call prepare(CudaDevice& device, Tensor<const T> q, Tensor<const T> k,
             Tensor<const int32_t> cu_seqlens) {
  const cuda::AttentionShape shape{q.extent(0), static_cast<int>(q.extent(1)),
                                   static_cast<int>(k.extent(1)), static_cast<int>(q.extent(2)),
                                   static_cast<int>(cu_seqlens.size()) - 1};
  const size_t bytes = cuda::attention_workspace_bytes(shape);
  return {shape, device.workspace(kTilesSlot, bytes), bytes};
}

}  // namespace

template <class T>
void attention_varlen(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                      Tensor<const int32_t> cu_seqlens, Tensor<T> y, Tensor<Accum<T>> lse) {
  const Call call = prepare<T>(device, q, k, cu_seqlens);
  cuda::attention_forward<T>(device.stream(), call.shape, q.data, k.data, v.data, cu_seqlens.data,
                             y.data, lse.data, call.workspace, call.bytes);
}

template <class T>
void attention_varlen_backward(CudaDevice& device, Tensor<const T> q, Tensor<const T> k,
                               Tensor<const T> v, Tensor<const int32_t> cu_seqlens,
                               Tensor<const Accum<T>> lse, Tensor<const T> dy,
                               Tensor<const Accum<T>> delta, Tensor<T> dq, Tensor<T> dk,
                               Tensor<T> dv) {
  const Call call = prepare<T>(device, q, k, cu_seqlens);
  cuda::attention_backward<T>(device.stream(), call.shape, q.data, k.data, v.data, cu_seqlens.data,
                              lse.data, dy.data, delta.data, dq.data, dk.data, dv.data,
                              call.workspace, call.bytes);
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template void attention_varlen(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                 Tensor<const int32_t>, Tensor<T>, Tensor<Accum<T>>);            \
  template void attention_varlen_backward(                                                       \
      CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, Tensor<const int32_t>,     \
      Tensor<const Accum<T>>, Tensor<const T>, Tensor<const Accum<T>>, Tensor<T>, Tensor<T>,     \
      Tensor<T>);
FAIRWAY_INSTANTIATE(float)
FAIRWAY_INSTANTIATE(bf16)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
