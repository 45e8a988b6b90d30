// Launches of the general attention kernels.
#include <type_traits>

#include "fairway/device/cuda_check.h"
#include "fairway/ops/attention_launch.cuh"
#include "fairway/ops/attention_simt.cuh"
#include "fairway/ops/attention_simt_cuda.h"
#include "fairway/ops/instantiate.h"

namespace fairway::cuda::attention_simt {

namespace {

// f(integral_constant<int, kD>): the narrowest compiled width that holds d.
template <class F>
void with_width(int d, F&& f) {
  if (d <= 32)
    f(std::integral_constant<int, 32>());
  else if (d <= 64)
    f(std::integral_constant<int, 64>());
  else if (d <= 128)
    f(std::integral_constant<int, 128>());
  else
    f(std::integral_constant<int, 256>());
}

}  // namespace

int32_t tile_height(const AttentionShape&) {
  return simt::kTileRows;
}

template <class T>
void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
             const T* q, const T* k, const T* v, T* y, float* lse) {
  with_width(s.d, [&](auto width) {
    simt::forward<Storage<T>, decltype(width)::value>
        <<<tile_blocks(query_tiles, s.H), simt::kThreads, 0, stream>>>(
            query_tiles, s.Q, s.H, s.K, s.d, softmax_scale(s.d), storage(q), storage(k), storage(v),
            storage(y), lse);
  });
  cuda_check_launch("attention forward");
}

template <class T>
void backward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
              const AttentionTiles& key_tiles, const T* q, const T* k, const T* v, const float* lse,
              const T* dy, const float* delta, T* dq, T* dk, T* dv) {
  with_width(s.d, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    simt::backward_keys<Storage<T>, kD><<<tile_blocks(key_tiles, s.K), simt::kThreads, 0, stream>>>(
        key_tiles, s.Q, s.H, s.K, s.d, softmax_scale(s.d), storage(q), storage(k), storage(v), lse,
        storage(dy), delta, storage(dk), storage(dv));
    simt::backward_queries<Storage<T>, kD>
        <<<tile_blocks(query_tiles, s.H), simt::kThreads, 0, stream>>>(
            query_tiles, s.Q, s.H, s.K, s.d, softmax_scale(s.d), storage(q), storage(k), storage(v),
            lse, storage(dy), delta, storage(dq));
  });
  cuda_check_launch("attention backward");
}

#define FAIRWAY_INSTANTIATE(T)                                                                \
  template void forward(cudaStream_t, const AttentionShape&, const AttentionTiles&, const T*, \
                        const T*, const T*, T*, float*);                                      \
  template void backward(cudaStream_t, const AttentionShape&, const AttentionTiles&,          \
                         const AttentionTiles&, const T*, const T*, const T*, const float*,   \
                         const T*, const float*, T*, T*, T*);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway::cuda::attention_simt
