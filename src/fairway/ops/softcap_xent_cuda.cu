// Blocks walk over rows. A row's values stay in registers between the sum of e^l and the store, so
// that each logit is read once and written once, and the next row is on its way meanwhile: what a
// block waits for is memory's bandwidth, neither its latency nor that of the steps in between. The
// block meets once per row. Rows too wide for registers, of an odd width or with a large cap are
// read again.
//
// With th = tanh(z/c), l = c·th and k = c·log2 e: e^l = 2^(k·th).
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

// In double: the three terms nearly cancel where the target is likely. What rounding then leaves
// below 0 is 0. (NaN stays NaN.)
__device__ __forceinline__ float nll_of(const Softcap& cap, const RowSum& row, float target_th) {
  const double nll = static_cast<double>(row.shift) * kLn2 + static_cast<double>(logf(row.sum)) -
                     static_cast<double>(cap.c) * static_cast<double>(target_th);
  return nll < 0 ? 0.0f : static_cast<float>(nll);
}

// d·(softmax − 1)(1 − th²), the target's gradient.
__device__ __forceinline__ float target_gradient(const Softcap& cap, const RowSum& row, float d,
                                                 float th) {
  const float p = exp2_of(fmaf(th, cap.k, -row.shift)) / row.sum;
  return d * (p - 1.0f) * (1.0f - th * th);
}

// Of a pack of logits: Σ e^l, and in their place e^l·(1 − th²) or, without gradients, l.
template <bool kGradient>
__device__ __forceinline__ float softcap_pack(const Softcap& cap, float (&v)[kPack]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const float th = tanh_of(v[i] * cap.inverse_c), e = exp2_of(th * cap.k);
    sum += e;
    v[i] = kGradient ? e - e * (th * th) : cap.c * th;
  }
  return sum;
}

// Blocks of a multiprocessor: as many as have registers for a row and the next.
template <class T, int kChunks>
constexpr int kBlocks = kChunks * sizeof(T) <= 8 ? 3 : (kChunks * sizeof(T) <= 16 ? 2 : 1);

// V ≤ kChunks·2048 and V % 8 == 0.
template <class T, int kChunks, bool kGradient>
__global__ __launch_bounds__(kRowThreads,
                             kBlocks<T, kChunks>) void xent_kernel(T* z, const int32_t* targets,
                                                                   int64_t rows, int V, Softcap cap,
                                                                   const float* d_nll, float* nll) {
  __shared__ float of_warp[2][kWarps];  // in turn: threads may still be reading the row before's
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t stride = gridDim.x;
  // The last row first: it is what the product before left in the cache, and the first rows are
  // what the product behind looks for there.
  int64_t n = rows - 1 - blockIdx.x;

  // Of the next row; its target is known one row earlier.
  Pack<T, kPack> next[kChunks];
  int next_target = targets[n];
  float next_z, next_d = 0.0f;
  const auto fetch = [&](int64_t row) {
    const T* from = z + row * V;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int j = (c * kRowThreads + thread) * kPack;
      if (j < V) load<kPack>(from + j, next[c]);
    }
    next_z = load_one(from + next_target);
    if constexpr (kGradient) next_d = d_nll[row];
  };
  fetch(n);
  int after_target = n >= stride ? targets[n - stride] : 0;

  for (int turn = 0; n >= 0; n -= stride, turn ^= 1) {
    float v[kChunks][kPack];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) unpack(next[c], v[c]);
    const int target = next_target;
    const float target_z = next_z, d = next_d;
    if (n >= stride) {
      next_target = after_target;
      fetch(n - stride);
      if (n >= 2 * stride) after_target = targets[n - 2 * stride];
    }

    float sum = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const float of_pack = softcap_pack<kGradient>(cap, v[c]);
      if ((c * kRowThreads + thread) * kPack < V) sum += of_pack;
    }
    sum = block_sum_for_all<kRowThreads>(sum, of_warp[turn]);

    // All threads have read their part of the row.
    T* row = z + n * V;
    const RowSum total{0.0f, sum};
    const float target_th = tanh_of(target_z * cap.inverse_c);
    if (thread == 0) nll[n] = nll_of(cap, total, target_th);
    const float factor = kGradient ? d / sum : 1.0f;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int j = (c * kRowThreads + thread) * kPack;
      if (j < V) {
        float out[kPack];
#pragma unroll
        for (int i = 0; i < kPack; ++i) out[i] = factor * v[c][i];
        store<kPack>(row + j, out);
      }
    }
    // The thread that wrote the target's pack writes the target again.
    if constexpr (kGradient)
      if (target / kPack % kRowThreads == thread)
        store_one(row + target, target_gradient(cap, total, d, target_th));
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void xent_any_kernel(T* z, const int32_t* targets,
                                                               int64_t V, Softcap cap,
                                                               const float* d_nll, float* nll) {
  const int64_t n = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  T* row = z + n * V;
  const int64_t target = targets[n];
  const float target_z = load_one(row + target);  // before any thread writes
  float most = -1.0f;
  for (int64_t j = thread; j < V; j += kRowThreads)
    most = fmaxf(most, tanh_of(load_one(row + j) * cap.inverse_c));
  const float shift = warp_max(most) * cap.k;
  float sum = 0;
  for (int64_t j = thread; j < V; j += kRowThreads)
    sum += exp2_of(fmaf(tanh_of(load_one(row + j) * cap.inverse_c), cap.k, -shift));
  const RowSum total = meet(shift, warp_sum(sum));

  const float target_th = tanh_of(target_z * cap.inverse_c);
  if (thread == 0) nll[n] = nll_of(cap, total, target_th);
  const float scale = d_nll != nullptr ? d_nll[n] / total.sum : 0.0f;
  for (int64_t j = thread; j < V; j += kRowThreads) {
    const float th = tanh_of(load_one(row + j) * cap.inverse_c);
    if (d_nll == nullptr)
      store_one(row + j, cap.c * th);
    else if (j == target)
      store_one(row + j, target_gradient(cap, total, d_nll[n], target_th));
    else
      store_one(row + j, scale * exp2_of(fmaf(th, cap.k, -total.shift)) * (1.0f - th * th));
  }
}

}  // namespace

template <class T>
void softcap_xent(CudaDevice& device, Tensor<T> z, Tensor<const int32_t> targets, double cap,
                  const Accum<T>* d_nll, Tensor<Accum<T>> nll) {
  const int64_t rows = z.extent(0), V = z.extent(1);
  if (rows == 0 || V == 0) return;
  const auto stream = device.stream();
  const Softcap softcap = softcap_of(cap);
  const auto launch = [&](auto chunks) {
    constexpr int kChunks = decltype(chunks)::value;
    const unsigned blocks =
        grid(std::min<int64_t>(rows, device.multiprocessors() * kBlocks<T, kChunks>));
    if (d_nll != nullptr)
      xent_kernel<T, kChunks, true><<<blocks, kRowThreads, 0, stream>>>(
          z.data, targets.data, rows, static_cast<int>(V), softcap, d_nll, nll.data);
    else
      xent_kernel<T, kChunks, false><<<blocks, kRowThreads, 0, stream>>>(
          z.data, targets.data, rows, static_cast<int>(V), softcap, d_nll, nll.data);
  };
  constexpr int64_t kChunk = kRowThreads * kPack;
  if (V % kPack != 0 || !aligned16(z.data) || V > 8 * kChunk || cap > kMostCap)
    xent_any_kernel<T>
        <<<grid(rows), kRowThreads, 0, stream>>>(z.data, targets.data, V, softcap, d_nll, nll.data);
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
