// Launches of the attention kernels on mma.sync.
#include <type_traits>

#include "fairway/device/cuda_check.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/attention_launch.cuh"
#include "fairway/ops/attention_mma_backward.cuh"
#include "fairway/ops/attention_mma_cuda.h"
#include "fairway/ops/attention_mma_forward.cuh"

namespace fairway::cuda::attention_mma {

namespace {

// f(integral_constant<int, d>)
template <class F>
void with_width(int d, F&& f) {
  check(d == 32 || d == 64 || d == 128, "attention: no tensor core kernels for this head width");
  if (d == 32)
    f(std::integral_constant<int, 32>());
  else if (d == 64)
    f(std::integral_constant<int, 64>());
  else
    f(std::integral_constant<int, 128>());
}

// One block for each tile and each of `heads`.
template <class Shared, class Kernel, class... Args>
void launch(cudaStream_t stream, Kernel* kernel, const AttentionTiles& tiles, int heads,
            Args... args) {
  allow_shared(kernel, sizeof(Shared));
  kernel<<<tile_blocks(tiles, heads), kThreads, sizeof(Shared), stream>>>(tiles, args...);
  cuda_check_launch("attention");
}

}  // namespace

int32_t tile_height(const AttentionShape&) {
  return kTile;
}

void forward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
             const bf16* q, const bf16* k, const bf16* v, bf16* y, float* lse) {
  with_width(s.d, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch<ForwardShared<kD>>(stream, forward_kernel<kD>, query_tiles, s.H, s.Q, s.H, s.K,
                              softmax_scale(kD), storage(q), storage(k), storage(v), storage(y),
                              lse);
  });
}

void backward(cudaStream_t stream, const AttentionShape& s, const AttentionTiles& query_tiles,
              const AttentionTiles& key_tiles, const bf16* q, const bf16* k, const bf16* v,
              const float* lse, const bf16* dy, const float* delta, bf16* dq, bf16* dk, bf16* dv) {
  with_width(s.d, [&](auto width) {
    constexpr int kD = decltype(width)::value;
    launch<BackwardShared<kD>>(stream, backward_keys_kernel<kD>, key_tiles, s.K, s.Q, s.H, s.K,
                               softmax_scale(kD), storage(q), storage(k), storage(v), lse,
                               storage(dy), delta, storage(dk), storage(dv));
    launch<BackwardShared<kD>>(stream, backward_queries_kernel<kD>, query_tiles, s.H, s.Q, s.H, s.K,
                               softmax_scale(kD), storage(q), storage(k), storage(v), lse,
                               storage(dy), delta, storage(dq));
  });
}

}  // namespace fairway::cuda::attention_mma
