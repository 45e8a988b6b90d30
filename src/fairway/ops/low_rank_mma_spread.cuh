// y += mid M on tensor cores, M a matrix of each document: mid's few columns stay in registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/shared_memory.cuh"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/low_rank_mma.cuh"
#include "fairway/ops/low_rank_mma_pack.cuh"
#include "fairway/ops/mma_cuda.h"

namespace fairway::cuda::low_rank_mma {

constexpr int kSpreadThreads = 256;
constexpr int kSpreadRows = kSpreadThreads / 2;      // 16 a warp
constexpr int kSpreadStages = 3, kSpreadWidth = 64;  // columns of y to a stage

struct Spread {
  const int32_t* doc_rows;
  int docs;
  const bf16* mid;  // [rows, k], rows mid_pitch apart
  int k, mid_pitch;
  Packed m;  // tile_n is 32
  bf16* y;   // [rows, n]
  int n;
};

// A block owns a tile of one document's rows, a warp 16 of them; blockIdx.y is the share of y's
// columns. Pieces of M pass through a ring in shared memory; a row of y is one warp's alone and
// goes straight to its registers.
template <int kRank>
__global__ void __launch_bounds__(kSpreadThreads, kRank <= 128 ? 2 : 1)
    spread_kernel(const __grid_constant__ Spread c) {
  wait_for_earlier_kernels();
  constexpr int kStage = kSpreadWidth * kRank / 8;  // 16-byte chunks
  static_assert(kStage % kSpreadThreads == 0);
  extern __shared__ uint4 ring[];  // [kSpreadStages, kStage]

  const DocTile tile = find_doc_tile<kSpreadRows>(c.doc_rows, c.docs, blockIdx.x);
  if (tile.rows == 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const int row0 = 16 * warp + lane / 4, row1 = row0 + 8;
  const bool valid0 = row0 < tile.rows, valid1 = row1 < tile.rows;
  const bool idle = 16 * warp >= tile.rows;  // a warp that only copies
  const bf16* const x = c.mid + (tile.begin + row0) * c.mid_pitch;
  bf16* const y = c.y + (tile.begin + row0) * c.n;

  const int all_stages = (c.n + kSpreadWidth - 1) / kSpreadWidth;
  const int shares = gridDim.y, share = blockIdx.y;
  const int stage_begin = all_stages * share / shares;
  const int stages = all_stages * (share + 1) / shares - stage_begin;
  const int y_end = min(c.n, kSpreadWidth * (stage_begin + stages));  // from here on: others'
  const uint4* const from = c.m.data + tile.doc * c.m.doc_step + int64_t{stage_begin} * kStage;

  const auto fetch = [&](int i) {
    if (i < stages) {
#pragma unroll
      for (int j = 0; j < kStage; j += kSpreadThreads)
        copy_async_16(ring + i % kSpreadStages * kStage + j + threadIdx.x,
                      from + int64_t{i} * kStage + j + threadIdx.x);
    }
    copy_async_commit();
  };
  // This lane's 16 bytes of either of its rows in a step of 32 columns, and two steps ahead.
  struct Rows {
    uint4 a, b;
  };
  const auto load = [&](const bf16* row, int width, int pitch, int step) {
    const int col = 32 * step + 8 * t;
    Rows r{};
    if (col < width && valid0) r.a = *reinterpret_cast<const uint4*>(row + col);
    if (col < width && valid1) r.b = *reinterpret_cast<const uint4*>(row + (col + 8 * pitch));
    return r;
  };
  for (int i = 0; i < kSpreadStages - 1; ++i) fetch(i);

  Rows mid[kRank / 32];
#pragma unroll
  for (int k = 0; k < kRank / 32; ++k) mid[k] = load(x, c.k, c.mid_pitch, k);
  Rows ahead[2];
  for (int h = 0; h < 2; ++h) ahead[h] = load(y, y_end, c.n, 2 * stage_begin + h);

  // Steps are not unrolled: the compiler would fill all registers with operands, and more.
  const uint4* stage = nullptr;
#pragma unroll 1
  for (int step = 0; step < 2 * stages; ++step) {
    if (step % 2 == 0) {
      copy_async_wait<kSpreadStages - 2>();
      __syncthreads();  // the stage is there for all, and nobody reads the one before any more
      fetch(step / 2 + kSpreadStages - 1);
      stage = ring + step / 2 % kSpreadStages * kStage;
    } else {
      stage += kStage / 2;
    }
    if (idle) continue;
    const int place = 2 * stage_begin + step, col = 32 * place + 8 * t;
    const Rows now = ahead[0];
    ahead[0] = ahead[1];
    ahead[1] = load(y, y_end, c.n, place + 2);
    float sum[4][4] = {};
#pragma unroll
    for (int k = 0; k < kRank / 32; ++k) {
      const uint4 &u = mid[k].a, &v = mid[k].b;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint4 m = stage[32 * (4 * k + j) + lane];
        mma_bf16(sum[j], u.x, v.x, u.y, v.y, m.x, m.y);
        mma_bf16(sum[j], u.z, v.z, u.w, v.w, m.z, m.w);
      }
    }
    if (col < c.n && valid0)
      *reinterpret_cast<uint4*>(y + col) = {
          add_pair(now.a.x, sum[0][0], sum[0][1]), add_pair(now.a.y, sum[1][0], sum[1][1]),
          add_pair(now.a.z, sum[2][0], sum[2][1]), add_pair(now.a.w, sum[3][0], sum[3][1])};
    if (col < c.n && valid1)
      *reinterpret_cast<uint4*>(y + (col + 8 * c.n)) = {
          add_pair(now.b.x, sum[0][2], sum[0][3]), add_pair(now.b.y, sum[1][2], sum[1][3]),
          add_pair(now.b.z, sum[2][2], sum[2][3]), add_pair(now.b.w, sum[3][2], sum[3][3])};
  }
}

// y += mid M for [rows, m.k] elements of rows mid_pitch apart, y [rows, m.n].
template <class Pairs>
void run_spread(CudaDevice& device, const Pairs& pairs, int64_t rows, const bf16* mid,
                int64_t mid_pitch, const Matrix& m, bf16* y) {
  // Few tiles share y's columns out among blocks.
  constexpr int64_t kStagesWorthABlock = 4;
  const int64_t stages = ceil_div(m.n, kSpreadWidth);
  const unsigned tiles = most_doc_tiles<kSpreadRows>(rows, pairs.docs);
  const int64_t wanted = 2 * device.multiprocessors() / static_cast<int64_t>(tiles);
  const int64_t shares = std::max<int64_t>(1, std::min(wanted, stages / kStagesWorthABlock));
  with_kernel_rank(m.k, [&](auto rank) {
    constexpr int kRank = decltype(rank)::value;
    constexpr int kBytes = kSpreadStages * kSpreadWidth * kRank * 2;
    const Spread c{.doc_rows = pairs.doc_rows.data,
                   .docs = static_cast<int>(pairs.docs),
                   .mid = mid,
                   .k = m.k,
                   .mid_pitch = static_cast<int>(mid_pitch),
                   .m = pack(device, pairs.docs, m, 32, stages * kSpreadWidth / 32, kRank / kSlab),
                   .y = y,
                   .n = m.n};
    allow_shared(spread_kernel<kRank>, kBytes);
    launch_dependent(device.stream(), spread_kernel<kRank>,
                     dim3(tiles, static_cast<unsigned>(shares)), kSpreadThreads, kBytes, c);
  });
  cuda_check_launch("low_rank: spread");
}

}  // namespace fairway::cuda::low_rank_mma
