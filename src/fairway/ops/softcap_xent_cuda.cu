// A block per row. The row's values stay in registers between the pass that sums e^l and the one
// that writes, so that each logit is read once and written once; rows too wide for that, or of an
// odd width, are read again.
//
// With th = tanh(z/c), l = c·th and k = c·log2 e: e^l = 2^(k·th). Each warp sums with its own
// maximum, so that the block meets once per row.
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/softcap_cuda.cuh"
#include "fairway/ops/softcap_xent.h"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// tanh u, relative error below 5e-7: an odd polynomial fitted up to 0.55, 1 − 2/(e^2u + 1) above.
__device__ __forceinline__ float tanh_of(float u) {
  const float magnitude = fabsf(u), s = u * u;
  float p = 0.01729575204190453f;
  p = p * s - 0.053146744658152306f;
  p = p * s + 0.13328464012041805f;
  p = p * s - 0.3333328747870858f;
  const float small = u + u * (s * p);
  const float e = exp2_of(magnitude * static_cast<float>(2 * kLog2E));
  const float large = copysignf(1.0f - 2.0f * reciprocal_of(e + 1.0f), u);
  return magnitude < 0.55f ? small : large;
}

struct Caps {
  float c, inverse_c, k;
};

// What a row's threads know after they have met.
struct RowSum {
  float shift;  // Σ e^l = 2^shift · sum
  float sum;
};
// From each warp's shift and sum (the same in all its lanes).
__device__ __forceinline__ RowSum meet(float shift, float sum) {
  __shared__ float shifts[kWarps], sums[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarp == 0) {
    shifts[thread / kWarp] = shift;
    sums[thread / kWarp] = sum;
  }
  __syncthreads();
  RowSum row{shifts[0], 0.0f};
#pragma unroll
  for (int w = 1; w < kWarps; ++w) row.shift = fmaxf(row.shift, shifts[w]);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) row.sum += sums[w] * exp2_of(shifts[w] - row.shift);
  return row;
}

// In double: the three terms nearly cancel where the target is likely.
__device__ __forceinline__ float nll_of(const Caps& caps, const RowSum& row, float target_th) {
  return static_cast<float>(static_cast<double>(row.shift) * kLn2 +
                            static_cast<double>(logf(row.sum)) -
                            static_cast<double>(caps.c) * static_cast<double>(target_th));
}

// d·(softmax − 1)(1 − th²), the target's gradient.
__device__ __forceinline__ float target_gradient(const Caps& caps, const RowSum& row, float d,
                                                 float th) {
  const float p = exp2_of(fmaf(th, caps.k, -row.shift)) / row.sum;
  return d * (p - 1.0f) * (1.0f - th * th);
}

// V ≤ kChunks·2048 and V % 8 == 0.
template <class T, int kChunks, bool kGradient>
__global__ __launch_bounds__(kRowThreads,
                             kChunks > 4 ? 1 : 4) void xent_kernel(T* z, const int32_t* targets,
                                                                   int V, Caps caps,
                                                                   const float* d_nll, float* nll) {
  const int64_t n = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  T* row = z + n * V;
  const int target = targets[n];
  Pack<T, kPack> packs[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int j = (c * kRowThreads + thread) * kPack;
    if (j < V) load<kPack>(row + j, packs[c]);
  }

  // th of what lies beyond the row is −∞: it adds 2^−∞ = 0.
  float th[kChunks][kPack], most = -1.0f;  // th ≥ −1
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    unpack(packs[c], th[c]);
    const bool inside = (c * kRowThreads + thread) * kPack < V;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      th[c][i] = inside ? tanh_of(th[c][i] * caps.inverse_c) : -INFINITY;
      most = fmaxf(most, th[c][i]);
    }
  }
  const float shift = warp_max(most) * caps.k;
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float e = exp2_of(fmaf(th[c][i], caps.k, -shift));
      sum += e;
      if constexpr (kGradient) th[c][i] = e - e * (th[c][i] * th[c][i]);
    }
  }
  // Read before the block meets, after which the row is written.
  const float target_th = tanh_of(load_one(row + target) * caps.inverse_c);
  const RowSum total = meet(shift, warp_sum(sum));

  if (thread == 0) nll[n] = nll_of(caps, total, target_th);
  float factor = caps.c;
  if constexpr (kGradient) factor = d_nll[n] * exp2_of(shift - total.shift) / total.sum;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int j = (c * kRowThreads + thread) * kPack;
    if (j < V) {
      float out[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) out[i] = factor * th[c][i];
      store<kPack>(row + j, out);
    }
  }
  // The thread that wrote the target's pack writes the target again.
  if constexpr (kGradient)
    if (target / kPack % kRowThreads == thread)
      store_one(row + target, target_gradient(caps, total, d_nll[n], target_th));
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void xent_any_kernel(T* z, const int32_t* targets,
                                                               int64_t V, Caps caps,
                                                               const float* d_nll, float* nll) {
  const int64_t n = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  T* row = z + n * V;
  const int64_t target = targets[n];
  const float target_z = load_one(row + target);  // before any thread writes
  float most = -1.0f;
  for (int64_t j = thread; j < V; j += kRowThreads)
    most = fmaxf(most, tanh_of(load_one(row + j) * caps.inverse_c));
  const float shift = warp_max(most) * caps.k;
  float sum = 0;
  for (int64_t j = thread; j < V; j += kRowThreads)
    sum += exp2_of(fmaf(tanh_of(load_one(row + j) * caps.inverse_c), caps.k, -shift));
  const RowSum total = meet(shift, warp_sum(sum));

  const float target_th = tanh_of(target_z * caps.inverse_c);
  if (thread == 0) nll[n] = nll_of(caps, total, target_th);
  const float scale = d_nll != nullptr ? d_nll[n] / total.sum : 0.0f;
  for (int64_t j = thread; j < V; j += kRowThreads) {
    const float th = tanh_of(load_one(row + j) * caps.inverse_c);
    if (d_nll == nullptr)
      store_one(row + j, caps.c * th);
    else if (j == target)
      store_one(row + j, target_gradient(caps, total, d_nll[n], target_th));
    else
      store_one(row + j, scale * exp2_of(fmaf(th, caps.k, -total.shift)) * (1.0f - th * th));
  }
}

}  // namespace

template <class T>
void softcap_xent(CudaDevice& device, Tensor<T> z, Tensor<const int32_t> targets, double cap,
                  const Accum<T>* d_nll, Tensor<Accum<T>> nll) {
  const int64_t rows = z.extent(0), V = z.extent(1);
  if (rows == 0 || V == 0) return;
  const auto stream = device.stream();
  const Caps caps{static_cast<float>(cap), static_cast<float>(1.0 / cap),
                  static_cast<float>(cap * kLog2E)};
  const auto launch = [&](auto chunks) {
    constexpr int kChunks = decltype(chunks)::value;
    if (d_nll != nullptr)
      xent_kernel<T, kChunks, true><<<grid(rows), kRowThreads, 0, stream>>>(
          z.data, targets.data, static_cast<int>(V), caps, d_nll, nll.data);
    else
      xent_kernel<T, kChunks, false><<<grid(rows), kRowThreads, 0, stream>>>(
          z.data, targets.data, static_cast<int>(V), caps, d_nll, nll.data);
  };
  constexpr int64_t kChunk = kRowThreads * kPack;
  if (V % kPack != 0 || !aligned16(z.data) || V > 8 * kChunk)
    xent_any_kernel<T>
        <<<grid(rows), kRowThreads, 0, stream>>>(z.data, targets.data, V, caps, d_nll, nll.data);
  else if (V <= kChunk)
    launch(std::integral_constant<int, 1>{});
  else if (V <= 4 * kChunk)
    launch(std::integral_constant<int, 4>{});
  else
    launch(std::integral_constant<int, 8>{});
  cuda_check_launch("softcap_xent");
}

#define FAIRWAY_INSTANTIATE(T)                                                         \
  template void softcap_xent<T>(CudaDevice&, Tensor<T>, Tensor<const int32_t>, double, \
                                const Accum<T>*, Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
