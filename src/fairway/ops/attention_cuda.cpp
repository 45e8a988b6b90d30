// Attention's ops on CUDA: tensors to pointers, plans made where the caller has none.
#include "fairway/device/cuda_device.h"
#include "fairway/ops/add_partials.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/attention_varlen_cuda.cuh"
#include "fairway/ops/attention_xsa.h"
#include "fairway/ops/instantiate.h"

namespace fairway {

namespace {

cuda::AttentionShape shape_of(const AttentionExtents& e, int64_t queries, int64_t segments) {
  return {e.T,
          queries,
          static_cast<int>(e.H),
          static_cast<int>(e.K),
          static_cast<int>(e.d),
          static_cast<int>(segments)};
}

// The caller's plan, or one that is filled here.
template <class T>
cuda::AttentionPlan plan_of(CudaDevice& device, Tensor<const T> q, Tensor<const T> k,
                            const AttentionSegments& segments) {
  const auto shape = shape_of({k.extent(0), q.extent(1), k.extent(1), q.extent(2)}, q.extent(0),
                              segments.cu_seqlens.size() - 1);
  const auto kernels = cuda::attention_kernels<T>(shape, device.capability());
  if (segments.tiles) return cuda::attention_plan(shape, kernels, segments.tiles);
  const auto plan = cuda::attention_plan(
      shape, kernels, device.workspace(Workspace::rows, cuda::attention_plan_bytes(shape)));
  cuda::fill_attention_plan(device.stream(), plan, segments.cu_seqlens.data,
                            segments.cu_queries.data);
  return plan;
}

}  // namespace

template <class T>
AttentionSegments attention_plan(CudaDevice& device, const AttentionExtents& extents,
                                 Tensor<const int32_t> cu_seqlens) {
  const auto shape = shape_of(extents, extents.T, cu_seqlens.size() - 1);
  std::byte* tiles = device.workspace(Workspace::plan, cuda::attention_plan_bytes(shape));
  const auto kernels = cuda::attention_kernels<T>(shape, device.capability());
  cuda::fill_attention_plan(device.stream(), cuda::attention_plan(shape, kernels, tiles),
                            cu_seqlens.data, nullptr);
  return {cu_seqlens, tiles};
}

template <class T>
void attention_varlen(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                      const AttentionSegments& segments, Tensor<T> y, Tensor<Accum<T>> lse,
                      Tensor<const Accum<T>> q_gain) {
  cuda::attention_forward<T>(device.stream(), plan_of<T>(device, q, k, segments), q.data, k.data,
                             v.data, q_gain.data, y.data, lse.data);
}

template <class T>
void attention_varlen_backward(CudaDevice& device, Tensor<const T> q, Tensor<const T> k,
                               Tensor<const T> v, const AttentionSegments& segments,
                               Tensor<const Accum<T>> lse, Tensor<const T> dy,
                               Tensor<const Accum<T>> delta, Tensor<T> dq, Tensor<T> dk,
                               Tensor<T> dv, const RopeBackward<T>* rope) {
  const auto plan = plan_of<T>(device, q, k, segments);
  const bool fused = rope && cuda::backward_fuses_rope(plan, rope->cosine.extent(1));
  const int64_t own = static_cast<int64_t>(cuda::attention_workspace_bytes(plan)), H = q.extent(1),
                partials = fused && rope->dq_gain ? cuda::attention_gain_partials(plan) : 0;
  std::byte* work = device.workspace(
      Workspace::operands,
      static_cast<size_t>(own + partials * H * static_cast<int64_t>(sizeof(float))));
  cuda::AttentionRope within;
  if (fused)
    within = {rope->rstd_q.data,
              rope->rstd_k.data,
              rope->q_gain.data,
              rope->cosine.data,
              rope->sine.data,
              rope->of_q().cosine.data,
              rope->of_q().sine.data,
              static_cast<int>(rope->cosine.extent(1)),
              partials ? reinterpret_cast<float*>(work + own) : nullptr};
  cuda::attention_backward<T>(device.stream(), plan, q.data, k.data, v.data, lse.data, dy.data,
                              delta.data, dq.data, dk.data, dv.data, work, within);
  if (rope && !fused) rope_backward_in_place<T>(device, *rope, q, k, dq, dk);
  if (partials) add_partials(device, within.gain_partials, partials, H, rope->dq_gain.data);
}

template <class T>
void attention_xsa(CudaDevice& device, Tensor<const T> q, Tensor<const T> k, Tensor<const T> v,
                   const AttentionSegments& segments, Tensor<T> y2, Tensor<Accum<T>> lse,
                   Tensor<Accum<T>> y_dot_v, Tensor<const Accum<T>> q_gain) {
  const auto plan = plan_of<T>(device, q, k, segments);
  const bool fused = cuda::forward_fuses_xsa(plan);
  cuda::attention_forward<T>(device.stream(), plan, q.data, k.data, v.data, q_gain.data, y2.data,
                             lse.data, fused ? y_dot_v.data : nullptr);
  if (!fused) xsa<T>(device, y2, v, y_dot_v, segments.query_rows);
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template AttentionSegments attention_plan<T>(CudaDevice&, const AttentionExtents&,             \
                                               Tensor<const int32_t>);                           \
  template void attention_varlen(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, \
                                 const AttentionSegments&, Tensor<T>, Tensor<Accum<T>>,          \
                                 Tensor<const Accum<T>>);                                        \
  template void attention_varlen_backward(                                                       \
      CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, const AttentionSegments&,  \
      Tensor<const Accum<T>>, Tensor<const T>, Tensor<const Accum<T>>, Tensor<T>, Tensor<T>,     \
      Tensor<T>, const RopeBackward<T>*);                                                        \
  template void attention_xsa(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,    \
                              const AttentionSegments&, Tensor<T>, Tensor<Accum<T>>,             \
                              Tensor<Accum<T>>, Tensor<const Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
