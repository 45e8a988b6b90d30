// One warpgroup's 64 keys and one tile of 64 queries of the kernel for the gradients of keys and
// values, and what they do at the end.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_wgmma.cuh"

namespace fairway::cuda::attention_sm90 {

// dkey += dSᵀ Q, dvalue += Pᵀ dY, dkey without the factor `scale`. The product into dkey is still
// running at the return: the next step or wgmma_wait<0>() ends it, and only then may the tile of
// queries be released; previous_done() is called where that of the previous step has ended.
// meanwhile() is called while products run. The diagonal tile is masked causally.
template <class PreviousDone, class Meanwhile>
__device__ __forceinline__ void key_step(float (&dkey)[32], float (&dvalue)[32], const char* keys,
                                         const char* values, const char* q, const char* dy,
                                         const RowTerms& terms, bool diagonal, float to_log2,
                                         int warp, int lane, PreviousDone&& previous_done,
                                         Meanwhile&& meanwhile) {
  float p[32], ds[32];
  wgmma_fence();
  multiply_rows(p, wgmma_descriptor_k(shared_address(keys)), wgmma_descriptor_k(shared_address(q)));
  wgmma_commit();
  wgmma_wait<1>();  // the previous iteration's dkey
  wgmma_pin(dkey);
  wgmma_pin(dvalue);
  previous_done();
  wgmma_fence();
  multiply_rows(ds, wgmma_descriptor_k(shared_address(values)),
                wgmma_descriptor_k(shared_address(dy)));
  wgmma_commit();
  meanwhile();
  __syncwarp();

  wgmma_wait<1>();
  wgmma_pin(p);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 query_lse =
        *reinterpret_cast<const float2*>(&terms.lse_log2[8 * j + 2 * (lane % 4)]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      p[4 * j + 2 * h] = exp2_approx(fmaf(p[4 * j + 2 * h], to_log2, -query_lse.x));
      p[4 * j + 2 * h + 1] = exp2_approx(fmaf(p[4 * j + 2 * h + 1], to_log2, -query_lse.y));
    }
  }
  if (diagonal) {
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      const int row = 16 * warp + 8 * (j / 2 % 2) + lane / 4;
      const int column = 8 * (j / 4) + 2 * (lane % 4) + j % 2;
      if (column < row) p[j] = 0;
    }
  }
  Fragment a;
  to_fragment(p, a);
  pin(a);
  wgmma_fence();
  add_product(dvalue, a, wgmma_descriptor_mn(shared_address(dy), kTileBytes));
  wgmma_commit();
  wgmma_wait<1>();
  wgmma_pin(ds);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 query_delta =
        *reinterpret_cast<const float2*>(&terms.delta[8 * j + 2 * (lane % 4)]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float2 x = unpack_bf16(a[j / 2][2 * (j % 2) + h]);
      ds[4 * j + 2 * h] = x.x * (ds[4 * j + 2 * h] - query_delta.x);
      ds[4 * j + 2 * h + 1] = x.y * (ds[4 * j + 2 * h + 1] - query_delta.y);
    }
  }
  Fragment b;
  to_fragment(ds, b);
  pin(b);
  wgmma_fence();
  add_product(dkey, b, wgmma_descriptor_mn(shared_address(q), kTileBytes));
  wgmma_commit();
  wgmma_wait<1>();  // dvalue's product: the next one overwrites its operand
}

// Of a block of one warpgroup: writes dk and adds to dv, rows `stride` apart, of which `rows`
// exist. Overwrites the block's keys and values in shared memory.
__device__ __forceinline__ void store_key_gradients(const float (&dkey)[32], float (&dvalue)[32],
                                                    float scale, char* keys, char* values, int warp,
                                                    int lane, __nv_bfloat16* dk, __nv_bfloat16* dv,
                                                    int64_t stride, int rows) {
  // All four warps are done with the keys and values in shared memory.
  __syncthreads();
  copy_rows_in(dv, stride, rows, values, warp, lane);
  store_rows(dkey, scale, keys, warp, lane, dk, stride, rows);
  Fragment before;
  __syncwarp();
  load_fragment(shared_address(values), warp, lane, before);
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 x = unpack_bf16(before[j / 4][j % 4]);
    dvalue[2 * j] += x.x;
    dvalue[2 * j + 1] += x.y;
  }
  __syncwarp();
  store_rows(dvalue, 1.f, values, warp, lane, dv, stride, rows);
}

}  // namespace fairway::cuda::attention_sm90
