// Attention on the ordinary arithmetic units: any head width up to kD, any GPU since sm_80. Memory
// is linear in the rows. Eight threads share a row: thread `lane` of them holds the columns
// 32 i + 4 lane + {0..3} of it, so that a warp reads a row of shared memory without conflicts.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "fairway/ops/attention_tiles.cuh"

namespace fairway::cuda::simt {

constexpr int kLanes = 8;      // threads per row
constexpr int kTileRows = 32;  // rows of a tile
constexpr int kThreads = kTileRows * kLanes;
// Rows of the other operand staged in shared memory at a time, two arrays of kD floats each.
constexpr int staged_rows(int kD) {
  return kD > 128 ? 16 : 32;
}

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ T from_float(float x) {
  if constexpr (sizeof(T) == 2)
    return __float2bfloat16_rn(x);
  else
    return x;
}

// This thread's columns of a row of d values; zero beyond d.
template <int kD, class T>
__device__ void load_columns(const T* row, int d, int lane, float (&x)[kD / kLanes]) {
#pragma unroll
  for (int i = 0; i < kD / kLanes; ++i) {
    const int column = (i / 4) * 32 + lane * 4 + i % 4;
    x[i] = column < d ? to_float(row[column]) : 0.f;
  }
}

template <int kD, class T>
__device__ void store_columns(T* row, int d, int lane, const float (&x)[kD / kLanes]) {
#pragma unroll
  for (int i = 0; i < kD / kLanes; ++i) {
    const int column = (i / 4) * 32 + lane * 4 + i % 4;
    if (column < d) row[column] = from_float<T>(x[i]);
  }
}

// rows [0, rows) of a row-strided array into staged[staged_rows][kD]; zero beyond rows and d.
template <int kD, class T>
__device__ void stage(const T* from, int64_t stride, int rows, int d, float* staged) {
  for (int i = static_cast<int>(threadIdx.x); i < staged_rows(kD) * kD; i += kThreads) {
    const int r = i / kD, c = i % kD;
    staged[i] = r < rows && c < d ? to_float(from[r * stride + c]) : 0.f;
  }
}

template <int kD>
__device__ float dot(const float (&x)[kD / kLanes], const float* staged_row, int lane) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kD / 32; ++i) {
    const float4 b = *reinterpret_cast<const float4*>(staged_row + i * 32 + lane * 4);
    sum += x[4 * i] * b.x + x[4 * i + 1] * b.y + x[4 * i + 2] * b.z + x[4 * i + 3] * b.w;
  }
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  return sum;
}

// x += weight · row
template <int kD>
__device__ void add_scaled(float (&x)[kD / kLanes], float weight, const float* staged_row,
                           int lane) {
#pragma unroll
  for (int i = 0; i < kD / 32; ++i) {
    const float4 b = *reinterpret_cast<const float4*>(staged_row + i * 32 + lane * 4);
    x[4 * i] += weight * b.x;
    x[4 * i + 1] += weight * b.y;
    x[4 * i + 2] += weight * b.z;
    x[4 * i + 3] += weight * b.w;
  }
}

// The row of queries' tensors of row `row` of the tile's segment. Rows that are no queries compute
// along with the nearest one (shuffles need every thread) and store nothing.
__device__ inline int64_t query_at(const AttentionTile& tile, int row) {
  return int64_t{tile.query_begin} + max(tile.first_query, min(row, tile.length - 1));
}
__device__ inline bool is_query(const AttentionTile& tile, int row) {
  return row >= tile.first_query && row < tile.length;
}

// One block: a tile of queries of one head. Keys in ascending order, running maximum.
template <class T, int kD>
__global__ void __launch_bounds__(kThreads)
    forward(AttentionTiles list, int64_t queries, int H, int K, int d, float scale, const T* q,
            const T* k, const T* v, T* y, float* lse) {
  constexpr int kKeys = staged_rows(kD);
  __shared__ __align__(16) float keys[kKeys * kD], values[kKeys * kD];
  const AttentionTile tile = list.tiles[static_cast<int>(blockIdx.x) / H];
  if (tile.length == 0) return;
  const int h = static_cast<int>(blockIdx.x) % H, kv = h / (H / K);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int row = tile.index * kTileRows + static_cast<int>(threadIdx.x) / kLanes;
  const int64_t at = query_at(tile, row);
  const int64_t q_at = (at * H + h) * d, kv_stride = static_cast<int64_t>(K) * d;

  float x[kD / kLanes], out[kD / kLanes];
  load_columns<kD>(q + q_at, d, lane, x);
#pragma unroll
  for (float& o : out) o = 0;
  float max = -INFINITY, sum = 0;
  const int end = min(tile.length, (tile.index + 1) * kTileRows);
  for (int k0 = 0; k0 < end; k0 += kKeys) {
    __syncthreads();
    const int64_t kv_at = (static_cast<int64_t>(tile.begin + k0) * K + kv) * d;
    stage<kD>(k + kv_at, kv_stride, min(kKeys, end - k0), d, keys);
    stage<kD>(v + kv_at, kv_stride, min(kKeys, end - k0), d, values);
    __syncthreads();
    float score[kKeys], new_max = max;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float s = scale * dot<kD>(x, keys + j * kD, lane);
      score[j] = k0 + j <= row ? s : -INFINITY;
      new_max = fmaxf(new_max, score[j]);
    }
    // Key 0 is in the first chunk and visible to every row: new_max is finite.
    const float shrink = expf(max - new_max);
    max = new_max;
    sum *= shrink;
#pragma unroll
    for (float& o : out) o *= shrink;
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const float p = expf(score[j] - max);
      sum += p;
      add_scaled<kD>(out, p, values + j * kD, lane);
    }
  }
  if (!is_query(tile, row)) return;
#pragma unroll
  for (float& o : out) o /= sum;
  store_columns<kD>(y + q_at, d, lane, out);
  if (lane == 0) lse[h * queries + at] = logf(sum) + max;
}

// One block: a tile of queries of one head.
template <class T, int kD>
__global__ void __launch_bounds__(kThreads)
    backward_queries(AttentionTiles list, int64_t queries, int H, int K, int d, float scale,
                     const T* q, const T* k, const T* v, const float* lse, const T* dy,
                     const float* delta, T* dq) {
  constexpr int kKeys = staged_rows(kD);
  __shared__ __align__(16) float keys[kKeys * kD], values[kKeys * kD];
  const AttentionTile tile = list.tiles[static_cast<int>(blockIdx.x) / H];
  if (tile.length == 0) return;
  const int h = static_cast<int>(blockIdx.x) % H, kv = h / (H / K);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int row = tile.index * kTileRows + static_cast<int>(threadIdx.x) / kLanes;
  const int64_t at = query_at(tile, row);
  const int64_t q_at = (at * H + h) * d, kv_stride = static_cast<int64_t>(K) * d;

  float x[kD / kLanes], dx[kD / kLanes], out[kD / kLanes];
  load_columns<kD>(q + q_at, d, lane, x);
  load_columns<kD>(dy + q_at, d, lane, dx);
#pragma unroll
  for (float& o : out) o = 0;
  const float row_lse = lse[h * queries + at], row_delta = delta[h * queries + at];
  const int end = min(tile.length, (tile.index + 1) * kTileRows);
  for (int k0 = 0; k0 < end; k0 += kKeys) {
    __syncthreads();
    const int64_t kv_at = (static_cast<int64_t>(tile.begin + k0) * K + kv) * d;
    stage<kD>(k + kv_at, kv_stride, min(kKeys, end - k0), d, keys);
    stage<kD>(v + kv_at, kv_stride, min(kKeys, end - k0), d, values);
    __syncthreads();
#pragma unroll 4
    for (int j = 0; j < kKeys; ++j) {
      const float s = dot<kD>(x, keys + j * kD, lane), dp = dot<kD>(dx, values + j * kD, lane);
      const float p = k0 + j <= row ? expf(scale * s - row_lse) : 0.f;
      add_scaled<kD>(out, p * (dp - row_delta) * scale, keys + j * kD, lane);
    }
  }
  if (is_query(tile, row)) store_columns<kD>(dq + q_at, d, lane, out);
}

// One block: a tile of keys of one key/value head; the query heads that read it come one after the
// other, so that their sum needs no atomics.
template <class T, int kD>
__global__ void __launch_bounds__(kThreads)
    backward_keys(AttentionTiles list, int64_t queries_in_buffer, int H, int K, int d, float scale,
                  const T* q, const T* k, const T* v, const float* lse, const T* dy,
                  const float* delta, T* dk, T* dv) {
  constexpr int kQueries = staged_rows(kD);
  __shared__ __align__(16) float queries[kQueries * kD], dys[kQueries * kD];
  __shared__ float lses[kQueries], deltas[kQueries];
  const AttentionTile tile = list.tiles[static_cast<int>(blockIdx.x) / K];
  if (tile.length == 0) return;
  const int kv = static_cast<int>(blockIdx.x) % K, group = H / K;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int row = tile.index * kTileRows + static_cast<int>(threadIdx.x) / kLanes;
  const int64_t at = tile.begin + min(row, tile.length - 1);
  const int64_t kv_at = (at * K + kv) * d, q_stride = static_cast<int64_t>(H) * d;

  float key[kD / kLanes], value[kD / kLanes], dkey[kD / kLanes], dvalue[kD / kLanes];
  load_columns<kD>(k + kv_at, d, lane, key);
  load_columns<kD>(v + kv_at, d, lane, value);
#pragma unroll
  for (int i = 0; i < kD / kLanes; ++i) dkey[i] = dvalue[i] = 0;
  for (int h = kv * group; h < (kv + 1) * group; ++h)
    for (int q0 = max(tile.index * kTileRows, tile.first_query); q0 < tile.length; q0 += kQueries) {
      __syncthreads();
      const int64_t first = int64_t{tile.query_begin} + q0, q_at = (first * H + h) * d;
      const int rows = min(kQueries, tile.length - q0);
      stage<kD>(q + q_at, q_stride, rows, d, queries);
      stage<kD>(dy + q_at, q_stride, rows, d, dys);
      if (static_cast<int>(threadIdx.x) < rows) {
        lses[threadIdx.x] = lse[h * queries_in_buffer + first + threadIdx.x];
        deltas[threadIdx.x] = delta[h * queries_in_buffer + first + threadIdx.x];
      }
      __syncthreads();
#pragma unroll 2
      for (int j = 0; j < rows; ++j) {
        const float s = dot<kD>(key, queries + j * kD, lane);
        const float dp = dot<kD>(value, dys + j * kD, lane);
        const float p = row <= q0 + j ? expf(scale * s - lses[j]) : 0.f;
        add_scaled<kD>(dkey, p * (dp - deltas[j]) * scale, queries + j * kD, lane);
        add_scaled<kD>(dvalue, p, dys + j * kD, lane);
      }
    }
  if (row >= tile.length) return;
  store_columns<kD>(dk + kv_at, d, lane, dkey);
  load_columns<kD>(dv + kv_at, d, lane, value);
#pragma unroll
  for (int i = 0; i < kD / kLanes; ++i) dvalue[i] += value[i];
  store_columns<kD>(dv + kv_at, d, lane, dvalue);
}

}  // namespace fairway::cuda::simt
