// One warpgroup's 64 keys and one tile of 64 queries of the kernel for the gradients of keys and
// values, and what they do at the end.
#pragma once

#include <cuda_bf16.h>

#include "fairway/ops/attention_wgmma.cuh"

namespace fairway::cuda::attention_sm90 {

// A block's tiles in shared memory as operands of wgmma: 0 and 1 are keys and values, the others
// queries and output gradients.
struct OperandTiles {
  TileDescriptors rows;   // of A, or as columns of B
  TileDescriptors inner;  // rows as the inner dimension

  __device__ __forceinline__ OperandTiles(uint32_t address)
      : rows(wgmma_descriptor_k(address), kTileBytes),
        inner(wgmma_descriptor_mn(address, kTileBytes), kTileBytes) {}
};

// dkey += dSᵀ Q, dvalue += Pᵀ dY, dkey without the factor `scale`. Queries and output gradients are
// tiles query_tile and the one after it. The product into dkey is still running at the return: the
// next step or wgmma_wait<0>() ends it, and only then may the tile of queries be released;
// previous_done() is called where that of the previous step has ended. meanwhile() is called while
// products run. The diagonal tile is masked causally.
template <class PreviousDone, class Meanwhile>
__device__ __forceinline__ void key_step(float (&dkey)[32], float (&dvalue)[32],
                                         const OperandTiles& tiles, int query_tile,
                                         const RowTerms& terms, bool diagonal, float to_log2,
                                         int warp, int lane, PreviousDone&& previous_done,
                                         Meanwhile&& meanwhile) {
  float p[32], ds[32];
  wgmma_fence();
  multiply_rows(p, tiles.rows[0], tiles.rows[query_tile]);
  wgmma_commit();
  wgmma_wait<1>();  // the previous iteration's dkey
  wgmma_pin(dkey);
  wgmma_pin(dvalue);
  previous_done();
  // V dYᵀ is added to −delta.
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 x = terms.minus_delta[j][lane % 4];
    ds[4 * j] = x.x, ds[4 * j + 1] = x.y, ds[4 * j + 2] = x.z, ds[4 * j + 3] = x.w;
  }
  wgmma_pin(ds);
  wgmma_fence();
  multiply_rows<true>(ds, tiles.rows[1], tiles.rows[query_tile + 1]);
  wgmma_commit();
  float4 lse[4];  // here before S is
#pragma unroll
  for (int i = 0; i < 4; ++i) lse[i] = terms.lse_log2[i][lane % 4];
  meanwhile();
  __syncwarp();

  wgmma_wait<1>();
  wgmma_pin(p);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4& x = lse[j / 2];
    const float query_lse[2] = {j % 2 ? x.z : x.x, j % 2 ? x.w : x.y};
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& y = p[4 * j + 2 * h + e];
        y = exp2_approx(fmaf(y, to_log2, -query_lse[e]));
      }
  }
  if (diagonal) {
    const int row_minus_column = 16 * warp + lane / 4 - 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      if (8 * (j / 4) + j % 2 - 8 * (j / 2 % 2) < row_minus_column) p[j] = 0;
    }
  }
  Fragment a;
  to_fragment(p, a);
  pin(a);
  wgmma_fence();
  add_product(dvalue, a, tiles.inner[query_tile + 1]);
  wgmma_commit();
  wgmma_wait<1>();
  wgmma_pin(ds);
#pragma unroll
  for (int j = 0; j < 32; ++j) ds[j] *= p[j];
  Fragment b;
  to_fragment(ds, b);
  pin(b);
  wgmma_fence();
  add_product(dkey, b, tiles.inner[query_tile]);
  wgmma_commit();
  wgmma_wait<1>();  // dvalue's product: the next one overwrites its operand
}

// Of a block of one warpgroup: writes dk and adds to dv, rows `stride` apart, of which `rows`
// exist; `before` are dv's until now. Overwrites the block's keys and values in shared memory.
__device__ __forceinline__ void store_key_gradients(const float (&dkey)[32], float (&dvalue)[32],
                                                    const RowPieces& before, float scale,
                                                    char* keys, char* values, int warp, int lane,
                                                    __nv_bfloat16* dk, __nv_bfloat16* dv,
                                                    int64_t stride, int rows) {
  // All four warps are done with the keys and values in shared memory.
  __syncthreads();
  put_rows(before, values, warp, lane);
  __syncwarp();
  store_rows(dkey, scale, keys, warp, lane, dk, stride, rows);
  Fragment sum;
  load_fragment(shared_address(values), warp, lane, sum);
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 x = unpack_bf16(sum[j / 4][j % 4]);
    dvalue[2 * j] += x.x;
    dvalue[2 * j + 1] += x.y;
  }
  __syncwarp();
  store_rows(dvalue, 1.f, values, warp, lane, dv, stride, rows);
}

}  // namespace fairway::cuda::attention_sm90
