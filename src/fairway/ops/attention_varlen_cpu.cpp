// Attention in float: tiles of 64 queries against all the keys they may see, the products through
// oneDNN. One task is a (segment, key/value head) pair, which owns every query head that reads it:
// dK and dV have one writer, and the bits do not depend on the number of threads.
#include <cmath>
#include <numeric>
#include <vector>

#include "fairway/device/cpu_matmul.h"
#include "fairway/ops/attention_varlen.h"
#include "fairway/ops/cpu_gemm_rows.h"
#include "fairway/ops/scalar.h"

namespace fairway {

namespace {

constexpr int64_t kQueries = 64;  // rows of a tile; keys are padded to a multiple of it

int64_t pad(int64_t n) {
  return (n + kQueries - 1) / kQueries * kQueries;
}

struct Shape4 {
  int64_t queries, H, K, d;
  int64_t group() const { return H / K; }
};

// Longest segments first, so that the last tasks are short ones.
std::vector<int64_t> by_length(Tensor<const int32_t> cu_seqlens) {
  std::vector<int64_t> order(static_cast<size_t>(cu_seqlens.size() - 1));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return cu_seqlens[a + 1] - cu_seqlens[a] > cu_seqlens[b + 1] - cu_seqlens[b];
  });
  return order;
}

// Rows [begin, begin + n) of one head of x [T, heads, d], times `scale`, as product inputs; zero
// rows up to `padded`.
template <class In>
void pack(const float* x, int64_t heads, int64_t head, int64_t d, int64_t begin, int64_t n,
          int64_t padded, float scale, In* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float* row = x + ((begin + i) * heads + head) * d;
    if constexpr (std::is_same_v<In, float>) {
#pragma omp simd
      for (int64_t c = 0; c < d; ++c) out[i * d + c] = row[c] * scale;
    } else {
      constexpr int64_t kPiece = 64;
      float piece[kPiece];
      for (int64_t at = 0; at < d; at += kPiece) {
        const int64_t length = std::min(kPiece, d - at);
#pragma omp simd
        for (int64_t c = 0; c < length; ++c) piece[c] = row[at + c] * scale;
        convert(piece, length, out + i * d + at);
      }
    }
  }
  std::fill(out + n * d, out + padded * d, In{});
}

// A finished row of probabilities (or their gradients) as product inputs: in place for float.
template <class In>
void finish_row(float* row, int64_t valid, int64_t n, In* out) {
  std::fill(row + valid, row + n, 0.0f);
  if constexpr (!std::is_same_v<In, float>) convert(row, n, out);
}

template <class U>
U* scratch(CpuDevice& device, int slot, int64_t n) {
  return reinterpret_cast<U*>(device.thread_scratch(slot, static_cast<size_t>(n) * sizeof(U)));
}

float row_max(const float* x, int64_t n) {
  float max = -INFINITY;
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

// The products' scale: 1/sqrt(d), folded into q.
float softmax_scale(int64_t d) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
}

// The queries of a tile, rows [lo, hi) of it: those of the segment from its row `first` on.
struct QueryTile {
  int64_t lo, hi, query0;  // the tile's row r is row query0 + r of queries' tensors
  QueryTile(const AttentionSegment& segment, int64_t first)
      : lo(std::max(int64_t{0}, segment.first_query - first)),
        hi(std::min(kQueries, segment.length - first)),
        query0(segment.query_begin + first) {}
};
// pack's, with zero rows around the queries.
template <class In>
void pack_queries(const float* x, const Shape4& s, int64_t head, const QueryTile& tile, float scale,
                  In* out) {
  std::fill(out, out + tile.lo * s.d, In{});
  pack(x, s.H, head, s.d, tile.query0 + tile.lo, tile.hi - tile.lo, kQueries - tile.lo, scale,
       out + tile.lo * s.d);
}
// Tiles start at multiples of their height, whichever rows are queries.
int64_t first_tile(const AttentionSegment& segment) {
  return segment.first_query < segment.length ? segment.first_query / kQueries * kQueries
                                              : segment.length;
}

template <class In>
void forward_task(CpuDevice& device, const Shape4& s, const AttentionSegment& segment, int64_t kv,
                  const float* q, const float* k, const float* v, float* y, float* lse) {
  const int64_t begin = segment.begin, n = segment.length, padded = pad(n), d = s.d;
  In* keys = scratch<In>(device, 0, padded * d);
  In* values = scratch<In>(device, 1, padded * d);
  In* queries = scratch<In>(device, 2, kQueries * d);
  float* scores = scratch<float>(device, 3, kQueries * padded);
  In* p = std::is_same_v<In, float> ? reinterpret_cast<In*>(scores)
                                    : scratch<In>(device, 4, kQueries * padded);
  float* out = scratch<float>(device, 5, kQueries * d);
  pack(k, s.K, kv, d, begin, n, padded, 1.0f, keys);
  pack(v, s.K, kv, d, begin, n, padded, 1.0f, values);
  for (int64_t h = kv * s.group(); h < (kv + 1) * s.group(); ++h)
    for (int64_t first = first_tile(segment); first < n; first += kQueries) {
      const QueryTile tile(segment, first);
      const int64_t seen = first + kQueries;
      pack_queries(q, s, h, tile, softmax_scale(d), queries);
      matmul_tile(device, kQueries, seen, d, mat(queries, d), mat_t(keys, d), scores, seen, false);
      float inverse[kQueries];
      for (int64_t r = 0; r < kQueries; ++r) {
        // Rows that are no queries are computed like the others (past the segment's end with its
        // last row's keys); their results are dropped.
        float* row = scores + r * seen;
        const int64_t valid = std::min(first + r + 1, n);
        const float max = row_max(row, valid);
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < valid; ++j) {
          const float e = exp_(row[j] - max);
          row[j] = e;
          sum += e;
        }
        finish_row(row, valid, seen, p + r * seen);
        inverse[r] = 1.0f / sum;
        if (r >= tile.lo && r < tile.hi) lse[h * s.queries + tile.query0 + r] = std::log(sum) + max;
      }
      matmul_tile(device, kQueries, d, seen, mat(static_cast<const In*>(p), seen), mat(values, d),
                  out, d, false);
      for (int64_t r = tile.lo; r < tile.hi; ++r) {
        float* row = y + ((tile.query0 + r) * s.H + h) * d;
#pragma omp simd
        for (int64_t c = 0; c < d; ++c) row[c] = out[r * d + c] * inverse[r];
      }
    }
}

template <class In>
void backward_task(CpuDevice& device, const Shape4& s, const AttentionSegment& segment, int64_t kv,
                   const float* q, const float* k, const float* v, const float* lse,
                   const float* dy, const float* delta, float* dq, float* dk, float* dv) {
  const int64_t begin = segment.begin, n = segment.length, padded = pad(n), d = s.d;
  const float scale = softmax_scale(d);
  In* keys = scratch<In>(device, 0, padded * d);
  In* values = scratch<In>(device, 1, padded * d);
  In* queries = scratch<In>(device, 2, 2 * kQueries * d);
  In* dys = queries + kQueries * d;
  float* scores = scratch<float>(device, 3, 2 * kQueries * padded);
  float* dp = scores + kQueries * padded;
  In* p = std::is_same_v<In, float> ? reinterpret_cast<In*>(scores)
                                    : scratch<In>(device, 4, 2 * kQueries * padded);
  In* ds = std::is_same_v<In, float> ? reinterpret_cast<In*>(dp) : p + kQueries * padded;
  float* out = scratch<float>(device, 5, kQueries * d);
  float* dkeys = scratch<float>(device, 6, 2 * padded * d);
  float* dvalues = dkeys + padded * d;
  std::fill(dkeys, dkeys + 2 * padded * d, 0.0f);
  pack(k, s.K, kv, d, begin, n, padded, 1.0f, keys);
  pack(v, s.K, kv, d, begin, n, padded, 1.0f, values);
  for (int64_t h = kv * s.group(); h < (kv + 1) * s.group(); ++h)
    for (int64_t first = first_tile(segment); first < n; first += kQueries) {
      const QueryTile tile(segment, first);
      const int64_t seen = first + kQueries;
      pack_queries(q, s, h, tile, scale, queries);
      pack_queries(dy, s, h, tile, 1.0f, dys);
      matmul_tile(device, kQueries, seen, d, mat(queries, d), mat_t(keys, d), scores, seen, false);
      matmul_tile(device, kQueries, seen, d, mat(dys, d), mat_t(values, d), dp, seen, false);
      for (int64_t r = 0; r < kQueries; ++r) {
        float *score = scores + r * seen, *g = dp + r * seen;
        const int64_t valid = r >= tile.lo && r < tile.hi ? first + r + 1 : 0;
        const int64_t at = h * s.queries + tile.query0 + r;
        if (valid > 0) {
          const float l = lse[at], dl = delta[at];
#pragma omp simd
          for (int64_t j = 0; j < valid; ++j) {
            score[j] = exp_(score[j] - l);
            g[j] = score[j] * (g[j] - dl);
          }
        }
        finish_row(score, valid, seen, p + r * seen);
        finish_row(g, valid, seen, ds + r * seen);
      }
      const In *p_in = p, *ds_in = ds;
      matmul_tile(device, seen, d, kQueries, mat_t(p_in, seen), mat(dys, d), dvalues, d, true);
      matmul_tile(device, seen, d, kQueries, mat_t(ds_in, seen), mat(queries, d), dkeys, d, true);
      matmul_tile(device, kQueries, d, seen, mat(ds_in, seen), mat(keys, d), out, d, false);
      for (int64_t r = tile.lo; r < tile.hi; ++r) {
        float* row = dq + ((tile.query0 + r) * s.H + h) * d;
#pragma omp simd
        for (int64_t c = 0; c < d; ++c) row[c] = out[r * d + c] * scale;
      }
    }
  for (int64_t i = 0; i < n; ++i) {
    float* dk_row = dk + ((begin + i) * s.K + kv) * d;
    float* dv_row = dv + ((begin + i) * s.K + kv) * d;
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) {
      dk_row[c] = dkeys[i * d + c];
      dv_row[c] += dvalues[i * d + c];
    }
  }
}

}  // namespace

template <>
void attention_varlen(CpuDevice& device, Tensor<const float> q, Tensor<const float> k,
                      Tensor<const float> v, const AttentionSegments& segments, Tensor<float> y,
                      Tensor<float> lse, Tensor<const float>) {
  const Shape4 s{q.extent(0), q.extent(1), k.extent(1), q.extent(2)};
  const auto order = by_length(segments.cu_seqlens);
  with_product_type<float>(device, [&]<class In>(In) {
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
    for (size_t task = 0; task < order.size() * static_cast<size_t>(s.K); ++task) {
      const AttentionSegment segment(segments, order[task / static_cast<size_t>(s.K)]);
      forward_task<In>(device, s, segment, static_cast<int64_t>(task) % s.K, q.data, k.data, v.data,
                       y.data, lse.data);
    }
  });
}

template <>
void attention_varlen_backward(CpuDevice& device, Tensor<const float> q, Tensor<const float> k,
                               Tensor<const float> v, const AttentionSegments& segments,
                               Tensor<const float> lse, Tensor<const float> dy,
                               Tensor<const float> delta, Tensor<float> dq, Tensor<float> dk,
                               Tensor<float> dv, const RopeBackward<float>* rope) {
  const Shape4 s{q.extent(0), q.extent(1), k.extent(1), q.extent(2)};
  const auto order = by_length(segments.cu_seqlens);
  with_product_type<float>(device, [&]<class In>(In) {
#pragma omp parallel for num_threads(device.threads()) schedule(dynamic)
    for (size_t task = 0; task < order.size() * static_cast<size_t>(s.K); ++task) {
      const AttentionSegment segment(segments, order[task / static_cast<size_t>(s.K)]);
      backward_task<In>(device, s, segment, static_cast<int64_t>(task) % s.K, q.data, k.data,
                        v.data, lse.data, dy.data, delta.data, dq.data, dk.data, dv.data);
    }
  });
  if (rope) rope_backward_in_place<float>(device, *rope, q, k, dq, dk);
}

}  // namespace fairway
