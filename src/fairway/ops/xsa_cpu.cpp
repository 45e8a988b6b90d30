#include <cmath>

#include "fairway/ops/cpu_rows.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/scalar.h"
#include "fairway/ops/xsa.h"

namespace fairway {

namespace {

constexpr double kTiny = 1e-12;

// 1/max(‖v‖, 1e-12), and whether the norm was the larger.
template <class T>
struct InverseNorm {
  T value;
  bool unit;  // v̂ has length 1
};
template <class T>
InverseNorm<T> inverse_norm(const T* v, int64_t d) {
  using std::sqrt;
  const T norm = sqrt(dot(v, v, d));
  if (real_part(norm) > static_cast<decltype(real_part(norm))>(kTiny)) return {T(1) / norm, true};
  return {T(1.0f / static_cast<float>(kTiny)), false};
}

}  // namespace

template <class T>
void xsa(CpuDevice& device, Tensor<T> y, Tensor<const T> v, Tensor<T> y_dot_v,
         Tensor<const int32_t> rows) {
  const int64_t H = y.extent(1), K = v.extent(1), d = y.extent(2), group = H / K;
  for_row_blocks(device, y.extent(0), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t k = 0; k < K; ++k) {
        const T* vt = v.data + ((rows ? rows[t] : t) * K + k) * d;
        const T inverse = inverse_norm(vt, d).value;
        for (int64_t h = k * group; h < (k + 1) * group; ++h) {
          T* yt = y.data + (t * H + h) * d;
          const T s = dot(static_cast<const T*>(yt), vt, d) * inverse;
          y_dot_v[t * H + h] = s;
          const T c = s * inverse;
#pragma omp simd
          for (int64_t j = 0; j < d; ++j) yt[j] -= c * vt[j];
        }
      }
  });
}

template <class T>
void xsa_backward(CpuDevice& device, Tensor<const T> y2, Tensor<const T> v, Tensor<const T> y_dot_v,
                  Tensor<T> dy, Tensor<T> dv, Tensor<T> delta, Tensor<const int32_t> rows) {
  const int64_t queries = y2.extent(0), H = y2.extent(1), K = v.extent(1), d = y2.extent(2);
  const int64_t group = H / K;
  for_row_blocks(device, queries, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t k = 0; k < K; ++k) {
        const int64_t v_at = ((rows ? rows[t] : t) * K + k) * d;
        const T* vt = v.data + v_at;
        T* dvt = dv.data + v_at;
        const InverseNorm<T> norm = inverse_norm(vt, d);
        const T inverse = norm.value;
        std::fill(dvt, dvt + d, T{});
        for (int64_t h = k * group; h < (k + 1) * group; ++h) {
          const T* yt = y2.data + (t * H + h) * d;
          T* dyt = dy.data + (t * H + h) * d;
          delta[h * queries + t] = dot(static_cast<const T*>(dyt), yt, d);
          const T along = dot(static_cast<const T*>(dyt), vt, d) * inverse;  // dy2·v̂
          const T s = y_dot_v[t * H + h], c = along * inverse;
          // Where the norm was clamped, v̂ is linear in v: the projections stay in.
          const T back = norm.unit ? T(0) : T(2) * along * s * inverse;
#pragma omp simd
          for (int64_t j = 0; j < d; ++j) {
            dyt[j] -= c * vt[j];
            dvt[j] -= inverse * (along * yt[j] + s * dyt[j] + back * vt[j]);
          }
        }
      }
  });
}

template <class T>
void attention_delta(CpuDevice& device, Tensor<const T> y, Tensor<const T> dy, Tensor<T> delta) {
  const int64_t rows = y.extent(0), H = y.extent(1), d = y.extent(2);
  for_row_blocks(device, rows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < H; ++h)
        delta[h * rows + t] = dot(y.data + (t * H + h) * d, dy.data + (t * H + h) * d, d);
  });
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template void xsa(CpuDevice&, Tensor<T>, Tensor<const T>, Tensor<T>, Tensor<const int32_t>); \
  template void xsa_backward(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>,    \
                             Tensor<T>, Tensor<T>, Tensor<T>, Tensor<const int32_t>);          \
  template void attention_delta(CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

}  // namespace fairway
