// A key/value head of width 8·kLanes and the query heads of its group are kLanes lanes' business, a
// pack of each; other widths take a warp. With item = t·K + k, the group's heads of y lie at
// item·group, item·group + 1, …: t·H + k·group = item·group.
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/xsa.h"
#include "fairway/ops/xsa_norm.cuh"

namespace fairway {

namespace {

constexpr int kWarps = kRowThreads / kWarp;

template <int kLanes>
__device__ __forceinline__ float group_dot(const float (&a)[kPack], const float (&b)[kPack]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPack; ++i) sum += a[i] * b[i];
  return group_sum<kLanes>(sum);
}

template <class T>
__device__ __forceinline__ void clear(Pack<T, kPack>& pack) {
#pragma unroll
  for (int q = 0; q < Pack<T, kPack>::kQuads; ++q) pack.quad[q] = make_uint4(0, 0, 0, 0);
}
// What p points to, or zeros.
template <class T>
__device__ __forceinline__ void load_if(bool valid, const T* p, Pack<T, kPack>& pack) {
  if (valid)
    load<kPack>(p, pack);
  else
    clear(pack);
}

// The item of a group of lanes, and the lane.
struct GroupItem {
  int64_t item;
  int lane;
};
template <int kLanes>
__device__ __forceinline__ GroupItem group_item() {
  const int thread = static_cast<int>(threadIdx.x);
  return {static_cast<int64_t>(blockIdx.x) * (kRowThreads / kLanes) + thread / kLanes,
          thread % kLanes};
}

// Where item t·K + k of y finds its key/value head: in row pick[t] of v, or in row t.
__device__ __forceinline__ int64_t value_item(const int32_t* pick, int64_t item, int K) {
  if (pick == nullptr) return item;
  const int64_t t = item / K;
  return pick[t] * int64_t{K} + (item - t * K);
}

template <class T, int kLanes, int kGroup>
__global__ __launch_bounds__(kRowThreads) void xsa_kernel(T* y, const T* v, const int32_t* pick,
                                                          int64_t items, int K, float* y_dot_v) {
  constexpr int64_t d = kLanes * kPack;
  const auto [item, lane] = group_item<kLanes>();
  const bool valid = item < items;
  T* yt = y + item * kGroup * d + lane * kPack;
  Pack<T, kPack> v_pack, y_packs[kGroup];
  const int64_t v_item = valid ? value_item(pick, item, K) : 0;
  load_if(valid, v + v_item * d + lane * kPack, v_pack);
#pragma unroll
  for (int h = 0; h < kGroup; ++h) load_if(valid, yt + h * d, y_packs[h]);

  float vv[kPack];
  unpack(v_pack, vv);
  const float inverse = inverse_norm(group_dot<kLanes>(vv, vv)).value;
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    float yv[kPack];
    unpack(y_packs[h], yv);
    const float s = group_dot<kLanes>(yv, vv) * inverse, c = s * inverse;
    if (valid) {
      if (lane == 0) y_dot_v[item * kGroup + h] = s;
#pragma unroll
      for (int i = 0; i < kPack; ++i) yv[i] -= c * vv[i];
      store<kPack>(yt + h * d, yv);
    }
  }
}

template <class T, int kLanes, int kGroup>
__global__ __launch_bounds__(kRowThreads) void xsa_backward_kernel(const T* y2, const T* v,
                                                                   const float* y_dot_v,
                                                                   const int32_t* pick,
                                                                   int64_t rows, int K, T* dy,
                                                                   T* dv, float* delta) {
  constexpr int64_t d = kLanes * kPack;
  const auto [item, lane] = group_item<kLanes>();
  const bool valid = item < rows * K;
  const int64_t heads_at = item * kGroup, at = heads_at * d + lane * kPack;
  Pack<T, kPack> v_pack, y_packs[kGroup], dy_packs[kGroup];
  const int64_t v_item = valid ? value_item(pick, item, K) : 0;
  load_if(valid, v + v_item * d + lane * kPack, v_pack);
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    load_if(valid, y2 + at + h * d, y_packs[h]);
    load_if(valid, dy + at + h * d, dy_packs[h]);
  }
  const int64_t t = item / K;
  const int k = static_cast<int>(item - t * K);

  float vv[kPack], dvv[kPack] = {};
  unpack(v_pack, vv);
  const InverseNorm norm = inverse_norm(group_dot<kLanes>(vv, vv));
  const float inverse = norm.value;
#pragma unroll
  for (int h = 0; h < kGroup; ++h) {
    float yv[kPack], g[kPack];
    unpack(y_packs[h], yv);
    unpack(dy_packs[h], g);
    const float with_y = group_dot<kLanes>(g, yv);
    const float along = group_dot<kLanes>(g, vv) * inverse, c = along * inverse;  // along: dy2·v̂
    if (valid) {
      const float s = y_dot_v[heads_at + h];
      // Where the norm was clamped, v̂ is linear in v: the projections stay in.
      const float back = norm.unit ? 0.0f : 2.0f * along * s * inverse;
      if (lane == 0) delta[static_cast<int64_t>(k * kGroup + h) * rows + t] = with_y;
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        g[i] -= c * vv[i];
        dvv[i] -= inverse * (along * yv[i] + s * g[i] + back * vv[i]);
      }
      store<kPack>(dy + at + h * d, g);
    }
  }
  if (valid) store<kPack>(dv + v_item * d + lane * kPack, dvv);
}

template <class T, int kLanes>
__global__ __launch_bounds__(kRowThreads) void delta_kernel(const T* y, const T* dy, int64_t rows,
                                                            int H, float* delta) {
  constexpr int kItems = 2, kGroups = kRowThreads / kLanes;
  constexpr int64_t d = kLanes * kPack;
  const int group = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t items = rows * H;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups * kItems + group;
  Pack<T, kPack> a[kItems], b[kItems];
#pragma unroll
  for (int u = 0; u < kItems; ++u) {
    const int64_t item = first + u * kGroups, at = item * d + lane * kPack;
    load_if(item < items, y + at, a[u]);
    load_if(item < items, dy + at, b[u]);
  }
#pragma unroll
  for (int u = 0; u < kItems; ++u) {
    const int64_t item = first + u * kGroups;
    float av[kPack], bv[kPack];
    unpack(a[u], av);
    unpack(b[u], bv);
    const float dot = group_dot<kLanes>(av, bv);
    if (item < items && lane == 0) {
      const int64_t t = item / H;
      delta[(item - t * H) * rows + t] = dot;
    }
  }
}

// --- any width --------------------------------------------------------------------------------

// The warp's sum of a_j b_j.
template <class A, class B>
__device__ __forceinline__ float warp_dot(const A* a, const B* b, int64_t d, int lane) {
  float sum = 0;
#pragma unroll 1
  for (int64_t j = lane; j < d; j += kWarp) sum += load_one(a + j) * load_one(b + j);
  return warp_sum(sum);
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void xsa_any_kernel(T* y, const T* v, const int32_t* pick,
                                                              int64_t items, int K, int64_t group,
                                                              int64_t d, float* y_dot_v) {
  const auto [item, lane] = group_item<kWarp>();
  if (item >= items) return;
  const T* vt = v + value_item(pick, item, K) * d;
  const float inverse = inverse_norm(warp_dot(vt, vt, d, lane)).value;
  for (int64_t h = 0; h < group; ++h) {
    T* yt = y + (item * group + h) * d;
    const float s = warp_dot(yt, vt, d, lane) * inverse, c = s * inverse;
    if (lane == 0) y_dot_v[item * group + h] = s;
    for (int64_t j = lane; j < d; j += kWarp)
      store_one(yt + j, load_one(yt + j) - c * load_one(vt + j));
  }
}

// Lane h of the warp holds head h's numbers: group ≤ 32.
template <class T>
__global__ __launch_bounds__(kRowThreads) void xsa_backward_any_kernel(
    const T* y2, const T* v, const float* y_dot_v, const int32_t* pick, int64_t rows, int K,
    int group, int64_t d, T* dy, T* dv, float* delta) {
  const auto [item, lane] = group_item<kWarp>();
  if (item >= rows * K) return;
  const int64_t t = item / K, k = item - t * K, v_at = value_item(pick, item, K) * d;
  const T* vt = v + v_at;
  const InverseNorm norm = inverse_norm(warp_dot(vt, vt, d, lane));
  const float inverse = norm.value;
  float my_along = 0, my_s = 0;
#pragma unroll 1
  for (int h = 0; h < group; ++h) {
    const int64_t head = item * group + h;
    const float with_y = warp_dot(dy + head * d, y2 + head * d, d, lane);
    const float along = warp_dot(dy + head * d, vt, d, lane) * inverse;
    if (lane == 0) delta[(k * group + h) * rows + t] = with_y;
    if (lane == h) {
      my_along = along;
      my_s = y_dot_v[head];
    }
  }
  for (int64_t j0 = 0; j0 < d; j0 += kWarp) {
    const int64_t j = j0 + lane;
    const float vj = j < d ? load_one(vt + j) : 0.0f;
    float dvj = 0;
#pragma unroll 1
    for (int h = 0; h < group; ++h) {
      const float along = __shfl_sync(kAllLanes, my_along, h);
      const float s = __shfl_sync(kAllLanes, my_s, h);
      if (j >= d) continue;
      const int64_t at = (item * group + h) * d + j;
      const float back = norm.unit ? 0.0f : 2.0f * along * s * inverse;
      const float g = load_one(dy + at) - along * inverse * vj;
      store_one(dy + at, g);
      dvj -= inverse * (along * load_one(y2 + at) + s * g + back * vj);
    }
    if (j < d) store_one(dv + v_at + j, dvj);
  }
}

template <class T>
__global__ __launch_bounds__(kRowThreads) void delta_any_kernel(const T* y, const T* dy,
                                                                int64_t rows, int64_t H, int64_t d,
                                                                float* delta) {
  const auto [item, lane] = group_item<kWarp>();
  if (item >= rows * H) return;
  const float dot = warp_dot(y + item * d, dy + item * d, d, lane);
  const int64_t t = item / H;
  if (lane == 0) delta[(item - t * H) * rows + t] = dot;
}

// Calls f(lanes, group), integral constants, if kernels exist for heads of width d and these
// groups.
template <class F>
bool with_head_layout(int64_t d, int64_t group, F&& f) {
  using std::integral_constant;
  const auto with_lanes = [&](auto lanes) {
    if (group == 1)
      f(lanes, integral_constant<int, 1>{});
    else if (group == 2)
      f(lanes, integral_constant<int, 2>{});
    else
      f(lanes, integral_constant<int, 4>{});
  };
  if (group != 1 && group != 2 && group != 4) return false;
  if (d == 64)
    with_lanes(integral_constant<int, 8>{});
  else if (d == 128)
    with_lanes(integral_constant<int, 16>{});
  else
    return false;
  return true;
}

}  // namespace

template <class T>
void xsa(CudaDevice& device, Tensor<T> y, Tensor<const T> v, Tensor<Accum<T>> y_dot_v,
         Tensor<const int32_t> rows) {
  const int64_t H = y.extent(1), K = v.extent(1), d = y.extent(2), group = H / K;
  const int64_t items = y.extent(0) * K;
  if (items == 0) return;
  const auto stream = device.stream();
  const bool launched =
      aligned16(y.data, v.data) && with_head_layout(d, group, [&](auto lanes, auto heads) {
        constexpr int kLanes = decltype(lanes)::value, kGroup = decltype(heads)::value;
        xsa_kernel<T, kLanes, kGroup>
            <<<grid(ceil_div(items, kRowThreads / kLanes)), kRowThreads, 0, stream>>>(
                y.data, v.data, rows.data, items, static_cast<int>(K), y_dot_v.data);
      });
  if (!launched)
    xsa_any_kernel<T><<<grid(ceil_div(items, kWarps)), kRowThreads, 0, stream>>>(
        y.data, v.data, rows.data, items, static_cast<int>(K), group, d, y_dot_v.data);
  cuda_check_launch("xsa");
}

template <class T>
void xsa_backward(CudaDevice& device, Tensor<const T> y2, Tensor<const T> v,
                  Tensor<const Accum<T>> y_dot_v, Tensor<T> dy, Tensor<T> dv,
                  Tensor<Accum<T>> delta, Tensor<const int32_t> rows) {
  const int64_t queries = y2.extent(0), H = y2.extent(1), K = v.extent(1), d = y2.extent(2);
  const int64_t group = H / K, items = queries * K;
  if (items == 0) return;
  const auto stream = device.stream();
  const bool launched =
      aligned16(y2.data, v.data, dy.data, dv.data) &&
      with_head_layout(d, group, [&](auto lanes, auto heads) {
        constexpr int kLanes = decltype(lanes)::value;
        constexpr int kGroup = decltype(heads)::value;
        xsa_backward_kernel<T, kLanes, kGroup>
            <<<grid(ceil_div(items, kRowThreads / kLanes)), kRowThreads, 0, stream>>>(
                y2.data, v.data, y_dot_v.data, rows.data, queries, static_cast<int>(K), dy.data,
                dv.data, delta.data);
      });
  if (!launched) {
    require(
        group <= kWarp,
        "num_heads / num_kv_heads = {}: exclusive attention on a GPU takes at most {}; choose more "
        "num_kv_heads, or run on the CPU",
        group, kWarp);
    xsa_backward_any_kernel<T><<<grid(ceil_div(items, kWarps)), kRowThreads, 0, stream>>>(
        y2.data, v.data, y_dot_v.data, rows.data, queries, static_cast<int>(K),
        static_cast<int>(group), d, dy.data, dv.data, delta.data);
  }
  cuda_check_launch("xsa_backward");
}

template <class T>
void attention_delta(CudaDevice& device, Tensor<const T> y, Tensor<const T> dy,
                     Tensor<Accum<T>> delta) {
  const int64_t rows = y.extent(0), H = y.extent(1), d = y.extent(2), items = rows * H;
  if (items == 0) return;
  const auto stream = device.stream();
  const auto launch = [&](auto lanes) {
    constexpr int kLanes = decltype(lanes)::value;
    delta_kernel<T, kLanes>
        <<<grid(ceil_div(items, kRowThreads / kLanes * 2)), kRowThreads, 0, stream>>>(
            y.data, dy.data, rows, static_cast<int>(H), delta.data);
  };
  const bool packs = aligned16(y.data, dy.data);
  if (packs && d == 64)
    launch(std::integral_constant<int, 8>{});
  else if (packs && d == 128)
    launch(std::integral_constant<int, 16>{});
  else
    delta_any_kernel<T><<<grid(ceil_div(items, kWarps)), kRowThreads, 0, stream>>>(
        y.data, dy.data, rows, H, d, delta.data);
  cuda_check_launch("attention_delta");
}

#define FAIRWAY_INSTANTIATE(T)                                                                  \
  template void xsa<T>(CudaDevice&, Tensor<T>, Tensor<const T>, Tensor<Accum<T>>,               \
                       Tensor<const int32_t>);                                                  \
  template void xsa_backward<T>(CudaDevice&, Tensor<const T>, Tensor<const T>,                  \
                                Tensor<const Accum<T>>, Tensor<T>, Tensor<T>, Tensor<Accum<T>>, \
                                Tensor<const int32_t>);                                         \
  template void attention_delta<T>(CudaDevice&, Tensor<const T>, Tensor<const T>, Tensor<Accum<T>>);
FAIRWAY_FOR_CUDA_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
