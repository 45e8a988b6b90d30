// A head of width 8·kLanes is kLanes lanes' business, a pack each: a pack's partner in the rotation
// is another lane's. Other widths take a warp a head, each lane owning whole pairs.
#include <climits>

#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/rope_gain.h"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;

// --- the table --------------------------------------------------------------------------------

constexpr int kTableRows = 32;  // of one block

__global__ __launch_bounds__(kRowThreads) void table_kernel(const int32_t* cu_seqlens,
                                                            int64_t segments, int rope_dims,
                                                            double base, int64_t rows, int64_t half,
                                                            float* cosine, float* sine) {
  extern __shared__ double frequency[];  // [half]
  __shared__ int64_t position[kTableRows];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTableRows;
  for (int64_t j = thread; j < half; j += kRowThreads)
    frequency[j] = pow(base, -2.0 * static_cast<double>(j) / rope_dims);
  if (thread < kTableRows) {
    // The last segment that starts at or before t; empty segments hold no row.
    const int64_t t = first + thread;
    int64_t low = 0, high = segments;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (cu_seqlens[middle] <= t)
        low = middle;
      else
        high = middle;
    }
    const bool covered = t < rows && cu_seqlens[low] <= t && t < cu_seqlens[segments];
    position[thread] = covered ? t - cu_seqlens[low] : -1;
  }
  __syncthreads();
  for (int64_t i = thread; i < kTableRows * half; i += kRowThreads) {
    const int64_t row = i / half, j = i - row * half, p = position[row];
    if (p < 0) continue;
    double s = 0, c = 0;
    sincos(static_cast<double>(p) * frequency[j], &s, &c);
    cosine[(first + row) * half + j] = static_cast<float>(c);
    sine[(first + row) * half + j] = static_cast<float>(s);
  }
}

// --- a head in kLanes lanes -------------------------------------------------------------------

// One lane's part in rotating a head: 8 columns of which the first 2·half in all rotate.
struct Rotation {
  int partner;     // the lane of the group with the other half of each pair
  int64_t column;  // of cosine and sine, for this lane's pack
  float sign;      // of the sine for the rotation; its transpose has the opposite
  bool rotates;
};
__device__ __forceinline__ Rotation rotation_of(int lane, int64_t half) {
  const int packs = static_cast<int>(half / kPack);  // of one half
  if (lane < packs) return {lane + packs, static_cast<int64_t>(lane) * kPack, 1.0f, true};
  if (lane < 2 * packs)
    return {lane - packs, static_cast<int64_t>(lane - packs) * kPack, -1.0f, true};
  return {lane, 0, 1.0f, false};
}

// The pack that lane `partner` of the group of kLanes holds.
template <int kLanes, class T>
__device__ __forceinline__ Pack<T, kPack> pack_of(const Pack<T, kPack>& mine, int partner) {
  Pack<T, kPack> other;
#pragma unroll
  for (int q = 0; q < Pack<T, kPack>::kQuads; ++q) {
    other.quad[q].x = __shfl_sync(kAllLanes, mine.quad[q].x, partner, kLanes);
    other.quad[q].y = __shfl_sync(kAllLanes, mine.quad[q].y, partner, kLanes);
    other.quad[q].z = __shfl_sync(kAllLanes, mine.quad[q].z, partner, kLanes);
    other.quad[q].w = __shfl_sync(kAllLanes, mine.quad[q].w, partner, kLanes);
  }
  return other;
}

template <class T>
__device__ __forceinline__ void clear(Pack<T, kPack>& pack) {
#pragma unroll
  for (int q = 0; q < Pack<T, kPack>::kQuads; ++q) pack.quad[q] = make_uint4(0, 0, 0, 0);
}

// v ← v·cos + sign·other·sin, where this lane's columns rotate.
__device__ __forceinline__ void rotate(const float* cosine, const float* sine, int64_t at,
                                       float sign, const float (&other)[kPack], float (&v)[kPack]) {
  float c[kPack], s[kPack];
  load<kPack>(cosine + at, c);
  load<kPack>(sine + at, s);
#pragma unroll
  for (int i = 0; i < kPack; ++i) v[i] = v[i] * c[i] + sign * other[i] * s[i];
}

template <int kLanes>
__device__ __forceinline__ float group_dot(const float (&a)[kPack], const float (&b)[kPack]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPack; ++i) sum += a[i] * b[i];
  return group_sum<kLanes>(sum);
}

__device__ __forceinline__ float rstd_of(float sum_of_squares, int64_t d, float eps) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(d) + eps);
}

// A head's gain; the inverse is 0 where there is none.
struct Gain {
  float value, inverse;
};
__device__ __forceinline__ Gain gain_of(const float* gain, int64_t head) {
  const float value = gain != nullptr ? gain[head] : 1.0f;
  return {value, value == 0.0f ? 0.0f : 1.0f / value};
}

constexpr int kItems = 2;  // heads a group has in flight

template <class T, int kLanes>
__global__ __launch_bounds__(kRowThreads) void rope_kernel(const T* x, const float* gain,
                                                           const float* cosine, const float* sine,
                                                           float eps, uint32_t items,
                                                           uint32_t heads, int64_t half, T* x_rot,
                                                           float* rstd_out) {
  constexpr uint32_t kGroups = kRowThreads / kLanes;
  constexpr int64_t d = kLanes * kPack;
  const uint32_t group = threadIdx.x / kLanes;
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const uint32_t first = blockIdx.x * kGroups * kItems + group;  // < 2^32: see the launch
  const Rotation rotation = rotation_of(lane, half);
  Pack<T, kPack> packs[kItems];
#pragma unroll
  for (int u = 0; u < kItems; ++u) {
    const uint32_t item = first + u * kGroups;
    if (item < items)
      load<kPack>(x + item * d + lane * kPack, packs[u]);
    else
      clear(packs[u]);
  }
#pragma unroll
  for (int u = 0; u < kItems; ++u) {
    const uint32_t item = first + u * kGroups;
    const uint32_t t = item / heads, head = item - t * heads;
    float v[kPack], other[kPack];
    unpack(packs[u], v);
    unpack(pack_of<kLanes>(packs[u], rotation.partner), other);
    const float rstd = rstd_of(group_dot<kLanes>(v, v), d, eps);
    if (item >= items) continue;  // after the exchanges, in which every lane takes part
    if (lane == 0) rstd_out[item] = rstd;
    const float g = rstd * (gain != nullptr ? gain[head] : 1.0f);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      v[i] *= g;
      other[i] *= g;
    }
    if (rotation.rotates) rotate(cosine, sine, t * half + rotation.column, rotation.sign, other, v);
    store<kPack>(x_rot + item * d + lane * kPack, v);
  }
}

// A group of lanes keeps to one head; a block takes `slots` rows at a time of its own rows.
template <class T, int kLanes>
__global__ __launch_bounds__(kRowThreads) void rope_backward_kernel(
    const T* dx_rot, const T* x_rot, const float* rstd, const float* gain, const float* cosine,
    const float* sine, int64_t rows, int heads, int64_t half, int64_t rows_per_block, T* dx,
    float* partials) {
  constexpr int kGroups = kRowThreads / kLanes;
  constexpr int64_t d = kLanes * kPack;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int slots = kGroups / heads, slot = group / heads, head = group - slot * heads;
  const Rotation rotation = rotation_of(lane, half);
  const Gain g = gain_of(gain, head);
  const int64_t begin = blockIdx.x * rows_per_block;
  const int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
  float dgain = 0;
  for (int64_t t0 = begin; t0 < end; t0 += slots * kItems) {
    Pack<T, kPack> gradients[kItems], outputs[kItems];
#pragma unroll
    for (int u = 0; u < kItems; ++u) {
      const int64_t t = t0 + u * slots + slot;
      if (slot < slots && t < end) {
        const int64_t at = (t * heads + head) * d + lane * kPack;
        load<kPack>(dx_rot + at, gradients[u]);
        load<kPack>(x_rot + at, outputs[u]);
      } else {
        clear(gradients[u]);
        clear(outputs[u]);
      }
    }
#pragma unroll
    for (int u = 0; u < kItems; ++u) {
      const int64_t t = t0 + u * slots + slot;
      const bool valid = slot < slots && t < end;
      // The gradient of what was rotated, of this lane's columns and of its partner's.
      float back[kPack], other[kPack], out[kPack], other_out[kPack];
      unpack(gradients[u], back);
      unpack(outputs[u], out);
      const float of_gain = group_dot<kLanes>(back, out) * g.inverse;
      unpack(pack_of<kLanes>(gradients[u], rotation.partner), other);
      unpack(pack_of<kLanes>(outputs[u], rotation.partner), other_out);
      if (valid) {
        dgain += of_gain;
        const int64_t item = t * heads + head;
        const float r = rstd[item], scale = r * g.value,
                    along = r * of_gain / static_cast<float>(d);
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          back[i] = scale * back[i] - along * out[i];
          other[i] = scale * other[i] - along * other_out[i];
        }
        if (rotation.rotates)
          rotate(cosine, sine, t * half + rotation.column, -rotation.sign, other, back);
        store<kPack>(dx + item * d + lane * kPack, back);
      }
    }
  }
  if (partials == nullptr) return;
  __shared__ float of_group[kGroups];
  if (lane == 0) of_group[group] = dgain;
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= heads) return;
  float sum = 0;
  for (int s = 0; s < slots; ++s) sum += of_group[s * heads + thread];
  partials[static_cast<int64_t>(blockIdx.x) * heads + thread] = sum;
}

// --- a head in a warp -------------------------------------------------------------------------

template <class T>
__global__ __launch_bounds__(kRowThreads) void rope_any_kernel(
    const T* x, const float* gain, const float* cosine, const float* sine, float eps, int64_t items,
    int64_t heads, int64_t d, int64_t half, T* x_rot, float* rstd_out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t item =
      static_cast<int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (item >= items) return;
  const int64_t t = item / heads, head = item - t * heads;
  const T* in = x + item * d;
  T* out = x_rot + item * d;
  float sum = 0;
  for (int64_t j = lane; j < d; j += kWarp) {
    const float v = load_one(in + j);
    sum += v * v;
  }
  const float rstd = rstd_of(warp_sum(sum), d, eps);
  const float g = rstd * (gain != nullptr ? gain[head] : 1.0f);
  if (lane == 0) rstd_out[item] = rstd;
  __syncwarp();  // every lane has read before one writes: x_rot may be x
  for (int64_t j = lane; j < half; j += kWarp) {
    const float a = load_one(in + j) * g, b = load_one(in + half + j) * g;
    const float c = cosine[t * half + j], s = sine[t * half + j];
    store_one(out + j, a * c + b * s);
    store_one(out + half + j, b * c - a * s);
  }
  for (int64_t j = 2 * half + lane; j < d; j += kWarp) store_one(out + j, load_one(in + j) * g);
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void rope_backward_any_kernel(
    const T* dx_rot, const T* x_rot, const float* rstd, const float* gain, const float* cosine,
    const float* sine, int64_t rows, int64_t heads, int64_t d, int64_t half, int64_t rows_per_block,
    T* dx, float* partials) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t head = blockIdx.y;
  const Gain g = gain_of(gain, head);
  const int64_t begin = blockIdx.x * rows_per_block;
  const int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
  float dgain = 0;
  for (int64_t t = begin + warp; t < end; t += kWarps) {
    const int64_t item = t * heads + head;
    const T *x = x_rot + item * d, *dy = dx_rot + item * d;
    T* out = dx + item * d;
    float dot = 0;
#pragma unroll 1
    for (int64_t j = lane; j < d; j += kWarp) dot += load_one(dy + j) * load_one(x + j);
    const float of_gain = warp_sum(dot) * g.inverse;
    __syncwarp();  // every lane has read before one writes: dx may be dx_rot
    dgain += of_gain;
    // The gradient of what was rotated.
    const float r = rstd[item], scale = r * g.value, along = r * of_gain / static_cast<float>(d);
    const auto back = [&](int64_t j) { return scale * load_one(dy + j) - along * load_one(x + j); };
#pragma unroll 1
    for (int64_t j = lane; j < half; j += kWarp) {
      const float a = back(j), b = back(half + j);
      const float c = cosine[t * half + j], s = sine[t * half + j];
      store_one(out + j, a * c - b * s);
      store_one(out + half + j, b * c + a * s);
    }
#pragma unroll 1
    for (int64_t j = 2 * half + lane; j < d; j += kWarp) store_one(out + j, back(j));
  }
  if (partials == nullptr) return;
  __shared__ float of_warp[kWarps];
  if (lane == 0) of_warp[warp] = dgain;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += of_warp[w];
  partials[static_cast<int64_t>(blockIdx.x) * heads + head] = sum;
}

}  // namespace

template <class T>
void rope_table(CudaDevice& device, Tensor<const int32_t> cu_seqlens, int rope_dims, double base,
                Tensor<Accum<T>> cosine, Tensor<Accum<T>> sine) {
  const int64_t half = rope_dims / 2, segments = cu_seqlens.size() - 1, rows = cosine.extent(0);
  if (rows == 0 || half == 0 || segments <= 0) return;
  check(half <= 4096, "rope_table: more rotary dimensions than shared memory holds");
  table_kernel<<<grid(ceil_div(rows, kTableRows)), kRowThreads,
                 static_cast<size_t>(half) * sizeof(double), device.stream()>>>(
      cu_seqlens.data, segments, rope_dims, base, rows, half, cosine.data, sine.data);
  cuda_check_launch("rope_table");
}

template <class T>
void rope_gain(CudaDevice& device, Tensor<const T> x, Tensor<const Accum<T>> gain,
               Tensor<const Accum<T>> cosine, Tensor<const Accum<T>> sine, double eps,
               Tensor<T> x_rot, Tensor<Accum<T>> rstd) {
  const int64_t heads = x.extent(1), d = x.extent(2), half = cosine.extent(1);
  const int64_t items = x.extent(0) * heads;
  if (items == 0) return;
  const auto stream = device.stream();
  const float epsilon = static_cast<float>(eps);
  const bool packs =
      half % kPack == 0 && items < INT_MAX && aligned16(x.data, cosine.data, sine.data, x_rot.data);
  const auto launch = [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    rope_kernel<T, kLanes>
        <<<grid(ceil_div(items, kRowThreads / kLanes * kItems)), kRowThreads, 0, stream>>>(
            x.data, gain.data, cosine.data, sine.data, epsilon, static_cast<uint32_t>(items),
            static_cast<uint32_t>(heads), half, x_rot.data, rstd.data);
  };
  if (packs && d == 64)
    launch(std::integral_constant<int, 8>{});
  else if (packs && d == 128)
    launch(std::integral_constant<int, 16>{});
  else
    rope_any_kernel<T><<<grid(ceil_div(items, kWarps)), kRowThreads, 0, stream>>>(
        x.data, gain.data, cosine.data, sine.data, epsilon, items, heads, d, half, x_rot.data,
        rstd.data);
  cuda_check_launch("rope_gain");
}

template <class T>
void rope_gain_backward(CudaDevice& device, Tensor<const T> dx_rot, Tensor<const T> x_rot,
                        Tensor<const Accum<T>> rstd, Tensor<const Accum<T>> gain,
                        Tensor<const Accum<T>> cosine, Tensor<const Accum<T>> sine, Tensor<T> dx,
                        Tensor<Accum<T>> dgain) {
  const int64_t rows = x_rot.extent(0), heads = x_rot.extent(1), d = x_rot.extent(2);
  const int64_t half = cosine.extent(1);
  if (rows == 0 || heads == 0) return;
  const int64_t rows_per_block = rows_per_partial(rows), blocks = ceil_div(rows, rows_per_block);
  float* partials = nullptr;
  if (dgain)
    partials = reinterpret_cast<float*>(
        device.workspace(Workspace::rows, static_cast<size_t>(blocks * heads) * sizeof(float)));
  const auto stream = device.stream();
  const bool packs =
      half % kPack == 0 && aligned16(dx_rot.data, x_rot.data, cosine.data, sine.data, dx.data);
  const auto launch = [&](auto lanes) {
    rope_backward_kernel<T, decltype(lanes)::value><<<grid(blocks), kRowThreads, 0, stream>>>(
        dx_rot.data, x_rot.data, rstd.data, gain.data, cosine.data, sine.data, rows,
        static_cast<int>(heads), half, rows_per_block, dx.data, partials);
  };
  if (packs && d == 64 && heads <= kRowThreads / 8)
    launch(std::integral_constant<int, 8>{});
  else if (packs && d == 128 && heads <= kRowThreads / 16)
    launch(std::integral_constant<int, 16>{});
  else
    rope_backward_any_kernel<T><<<dim3(grid(blocks), grid(heads)), kRowThreads, 0, stream>>>(
        dx_rot.data, x_rot.data, rstd.data, gain.data, cosine.data, sine.data, rows, heads, d, half,
        rows_per_block, dx.data, partials);
  cuda_check_launch("rope_gain_backward");
  if (dgain) add_partials(device, partials, blocks, heads, dgain.data);
}

#define FAIRWAY_INSTANTIATE(T)                                                                   \
  template void rope_table<T>(CudaDevice&, Tensor<const int32_t>, int, double, Tensor<Accum<T>>, \
                              Tensor<Accum<T>>);                                                 \
  template void rope_gain<T>(CudaDevice&, Tensor<const T>, Tensor<const Accum<T>>,               \
                             Tensor<const Accum<T>>, Tensor<const Accum<T>>, double, Tensor<T>,  \
                             Tensor<Accum<T>>);                                                  \
  template void rope_gain_backward<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,             \
                                      Tensor<const Accum<T>>, Tensor<const Accum<T>>,            \
                                      Tensor<const Accum<T>>, Tensor<const Accum<T>>, Tensor<T>, \
                                      Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
