// One warpgroup's 64 queries and one tile of 64 keys in the forward pass, and what it does at the
// end.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_wgmma.cuh"
#include "fairway/ops/attention_xsa_sm90.cuh"
#include "fairway/sm90/warpgroup.cuh"

namespace fairway::cuda::attention_sm90 {

// The running softmax of a warpgroup's rows: output, maximum score (without scale; 0 where none is
// sought) and the sum of exponentials, the latter of this thread's columns only. The diagonal tile
// comes first.
struct RunningSoftmax {
  float out[32], max[2], sum[2];
};

__device__ __forceinline__ void clear(RunningSoftmax& r, bool bounded) {
#pragma unroll
  for (float& o : r.out) o = 0;
  r.max[0] = r.max[1] = bounded ? 0 : -INFINITY;
  r.sum[0] = r.sum[1] = 0;
}

// The largest score whose exponential leaves room for sums of products with any sensible values in
// a float's range, and whose negative's is far from its other end.
constexpr float kMostScore = 60;

// `bounded`: but for rounding no score exceeds kMostScore in size, and exponentials are taken as
// they are. To seek the maximum and to scale sums by it is a third of all instructions. The product
// with the values is still running at the return: the next step or wgmma_wait<0>() ends it. The
// tiles are given by their descriptors (values': along its rows). previous_done() is called where
// that of the previous step has ended and its tile of keys and values may be released. The diagonal
// tile is masked causally.
template <class PreviousDone>
__device__ __forceinline__ void query_step(RunningSoftmax& r, uint64_t queries, uint64_t keys,
                                           uint64_t values, bool diagonal, bool bounded,
                                           float to_log2, int warp, int lane,
                                           PreviousDone&& previous_done) {
  float(&out)[32] = r.out, (&max)[2] = r.max, (&sum)[2] = r.sum;
  float score[32];
  wgmma_fence();
  multiply_rows(score, queries, keys);
  wgmma_commit();
  wgmma_wait<0>();  // also the previous iteration's product with the values
  wgmma_pin(score);
  wgmma_pin(out);
  previous_done();
  __syncwarp();

  if (diagonal) mask_diagonal(score, warp, lane);
  float shift[2] = {0, 0};
  if (!bounded) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float new_max = max[h];
#pragma unroll
      for (int j = 0; j < 8; ++j)
        new_max = fmaxf(new_max, fmaxf(score[4 * j + 2 * h], score[4 * j + 2 * h + 1]));
      new_max = fmaxf(new_max, __shfl_xor_sync(0xFFFFFFFFu, new_max, 1));
      new_max = fmaxf(new_max, __shfl_xor_sync(0xFFFFFFFFu, new_max, 2));
      // Finite: every row sees its own key in the first tile.
      const float shrink = exp2_approx((max[h] - new_max) * to_log2);
      shift[h] = new_max * to_log2;
      max[h] = new_max;
      sum[h] *= shrink;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        out[4 * j + 2 * h] *= shrink;
        out[4 * j + 2 * h + 1] *= shrink;
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float part = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = score[4 * j + 2 * h + e];
        x = exp2_approx(fmaf(x, to_log2, -shift[h]));
        part += x;
      }
    sum[h] += part;
  }
  Fragment p;
  to_fragment(score, p);
  pin(p);
  wgmma_pin(out);
  wgmma_fence();
  add_product(out, p, values);
  wgmma_commit();
}

// Where a warpgroup's rows go: y's are `stride` elements apart; those of [first, rows) exist.
struct OutputRows {
  __nv_bfloat16* y;
  int64_t stride;
  float *lse, *y_dot_v;  // y_dot_v's rows are H apart
  int H, rows, first;

  __device__ __forceinline__ bool has(int row) const { return row >= first && row < rows; }
};

// Writes y and lse; with `values`, those of the queries' own positions, exclusive attention's y2
// and y·v̂. Overwrites the warpgroup's queries in shared memory.
__device__ __forceinline__ void store_output(RunningSoftmax& r, float scale, char* queries,
                                             const char* values, int barrier, int warp, int lane,
                                             const OutputRows& to) {
  float(&out)[32] = r.out, (&max)[2] = r.max, (&sum)[2] = r.sum;
  const int row0 = 16 * warp + lane / 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] = lanes_sum<4>(sum[h]);
    const int row = row0 + 8 * h;
    if (lane % 4 == 0 && to.has(row)) to.lse[row] = fmaf(max[h], scale, __logf(sum[h]));
    const float inverse = __fdividef(1, sum[h]);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      out[4 * j + 2 * h] *= inverse;
      out[4 * j + 2 * h + 1] *= inverse;
    }
  }
  if (values) {
    float y_dot_v[2];
    exclude_values(out, values, warp, lane, y_dot_v);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = row0 + 8 * h;
      if (lane % 4 == 0 && to.has(row)) to.y_dot_v[static_cast<int64_t>(row) * to.H] = y_dot_v[h];
    }
  }
  // All four warps are done with the queries in shared memory.
  named_barrier_sync(barrier, kWarpgroupThreads);
  store_rows(out, 1.f, queries, warp, lane, to.y, to.stride, to.rows, to.first);
}

}  // namespace fairway::cuda::attention_sm90
