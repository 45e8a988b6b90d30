// Attention by its definition: for double and complex<double> in the model, and the twin that the
// fast float version is tested against.
#include <cmath>
#include <vector>

#include "fairway/device/cpu_device.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/instantiate.h"
#include "fairway/ops/scalar.h"

namespace fairway {

namespace {

// f(segment, query head, key/value head) for every pair, shared out by key/value head: a key/value
// head's gradients have one owner.
template <class F>
void for_heads(CpuDevice& device, const AttentionSegments& all, int64_t H, int64_t K, F&& f) {
  const int64_t segments = all.cu_seqlens.size() - 1, group = H / K;
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
  for (int64_t task = 0; task < segments * K; ++task) {
    const AttentionSegment segment(all, task / K);
    const int64_t kv = task % K;
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) f(segment, h, kv);
  }
}

template <class T>
T softmax_scale(int64_t d) {
  return T(static_cast<decltype(real_part(T{}))>(1.0 / std::sqrt(static_cast<double>(d))));
}

}  // namespace

template <class T>
void attention_varlen_plain(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                            Tensor<const T> v, const AttentionSegments& segments, Tensor<T> y,
                            Tensor<T> lse) {
  using std::log;
  const int64_t queries = q.extent(0), H = q.extent(1), K = k.extent(1), d = q.extent(2);
  const T scale = softmax_scale<T>(d);
  for_heads(device, segments, H, K, [&](const AttentionSegment& s, int64_t h, int64_t kv) {
    std::vector<T> p(static_cast<size_t>(s.length));
    for (int64_t i = s.first_query; i < s.length; ++i) {
      const int64_t query = s.query_begin + i;
      T* out = y.data + (query * H + h) * d;
      auto max = -std::numeric_limits<decltype(real_part(T{}))>::infinity();
      for (int64_t j = 0; j <= i; ++j) {
        T& score = p[static_cast<size_t>(j)];
        score = scale * dot(q.data + (query * H + h) * d, k.data + ((s.begin + j) * K + kv) * d, d);
        max = std::max(max, real_part(score));
      }
      T sum{};
      for (int64_t j = 0; j <= i; ++j) {
        T& e = p[static_cast<size_t>(j)];
        e = exp_(e - T(max));
        sum += e;
      }
      lse[h * queries + query] = log(sum) + T(max);
      std::fill(out, out + d, T{});
      for (int64_t j = 0; j <= i; ++j) {
        const T w = p[static_cast<size_t>(j)] / sum;
        for (int64_t c = 0; c < d; ++c) out[c] += w * v.data[((s.begin + j) * K + kv) * d + c];
      }
    }
  });
}

template <class T>
void attention_varlen_backward_plain(CpuDevice& device, Tensor<const T> q, Tensor<const T> k,
                                     Tensor<const T> v, const AttentionSegments& segments,
                                     Tensor<const T> lse, Tensor<const T> dy, Tensor<const T> delta,
                                     Tensor<T> dq, Tensor<T> dk, Tensor<T> dv) {
  const int64_t queries = q.extent(0), H = q.extent(1), K = k.extent(1), d = q.extent(2);
  const T scale = softmax_scale<T>(d);
  std::fill(dq.begin(), dq.end(), T{});
  std::fill(dk.begin(), dk.end(), T{});
  for_heads(device, segments, H, K, [&](const AttentionSegment& s, int64_t h, int64_t kv) {
    for (int64_t i = s.first_query; i < s.length; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        const int64_t query = s.query_begin + i, q_at = (query * H + h) * d;
        const int64_t kv_at = ((s.begin + j) * K + kv) * d, term = h * queries + query;
        const T *qi = q.data + q_at, *kj = k.data + kv_at;
        const T *vj = v.data + kv_at, *dyi = dy.data + q_at;
        const T p = exp_(scale * dot(qi, kj, d) - lse[term]);
        const T ds = p * (dot(dyi, vj, d) - delta[term]) * scale;
        for (int64_t c = 0; c < d; ++c) {
          dq.data[q_at + c] += ds * kj[c];
          dk.data[kv_at + c] += ds * qi[c];
          dv.data[kv_at + c] += p * dyi[c];
        }
      }
  });
}

#define FAIRWAY_INSTANTIATE(T)                                                                 \
  template void attention_varlen_plain(CpuDevice&, Tensor<const T>, Tensor<const T>,           \
                                       Tensor<const T>, const AttentionSegments&, Tensor<T>,   \
                                       Tensor<T>);                                             \
  template void attention_varlen_backward_plain(                                               \
      CpuDevice&, Tensor<const T>, Tensor<const T>, Tensor<const T>, const AttentionSegments&, \
      Tensor<const T>, Tensor<const T>, Tensor<const T>, Tensor<T>, Tensor<T>, Tensor<T>);
FAIRWAY_FOR_CPU_TYPES(FAIRWAY_INSTANTIATE)
#undef FAIRWAY_INSTANTIATE

template <>
void attention_varlen(CpuDevice& device, Tensor<const double> q, Tensor<const double> k,
                      Tensor<const double> v, const AttentionSegments& segments, Tensor<double> y,
                      Tensor<double> lse, Tensor<const double>) {
  attention_varlen_plain(device, q, k, v, segments, y, lse);
}
template <>
void attention_varlen(CpuDevice& device, Tensor<const std::complex<double>> q,
                      Tensor<const std::complex<double>> k, Tensor<const std::complex<double>> v,
                      const AttentionSegments& segments, Tensor<std::complex<double>> y,
                      Tensor<std::complex<double>> lse, Tensor<const std::complex<double>>) {
  attention_varlen_plain(device, q, k, v, segments, y, lse);
}
template <>
void attention_varlen_backward(CpuDevice& device, Tensor<const double> q, Tensor<const double> k,
                               Tensor<const double> v, const AttentionSegments& segments,
                               Tensor<const double> lse, Tensor<const double> dy,
                               Tensor<const double> delta, Tensor<double> dq, Tensor<double> dk,
                               Tensor<double> dv, const RopeBackward<double>* rope) {
  attention_varlen_backward_plain(device, q, k, v, segments, lse, dy, delta, dq, dk, dv);
  if (rope) rope_backward_in_place<double>(device, *rope, q, k, dq, dk);
}
template <>
void attention_varlen_backward(
    CpuDevice& device, Tensor<const std::complex<double>> q, Tensor<const std::complex<double>> k,
    Tensor<const std::complex<double>> v, const AttentionSegments& segments,
    Tensor<const std::complex<double>> lse, Tensor<const std::complex<double>> dy,
    Tensor<const std::complex<double>> delta, Tensor<std::complex<double>> dq,
    Tensor<std::complex<double>> dk, Tensor<std::complex<double>> dv,
    const RopeBackward<std::complex<double>>* rope) {
  attention_varlen_backward_plain(device, q, k, v, segments, lse, dy, delta, dq, dk, dv);
  if (rope) rope_backward_in_place<std::complex<double>>(device, *rope, q, k, dq, dk);
}

}  // namespace fairway
