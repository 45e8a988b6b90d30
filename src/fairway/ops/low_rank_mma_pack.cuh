// Matrices of float32, packed to bf16 for the low-rank kernels on tensor cores.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "fairway/base/bf16_cuda.cuh"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/ops/cuda_rows.cuh"
#include "fairway/ops/low_rank.h"
#include "fairway/ops/low_rank_mma.cuh"

namespace fairway::cuda::low_rank_mma {

// A matrix M [k, n] of each document: element (i, j) at from[doc·doc_step + i·k_step + j·n_step].
// Several adapters' matrices follow each other along one of the two, `k_group` or `n_group` apart.
struct Matrix {
  std::array<const float*, kMaxLowRankGroup> from{};
  int64_t doc_step = 0, k_step = 0, n_step = 0;
  int k = 0, n = 0;
  int k_group = std::numeric_limits<int>::max(), n_group = std::numeric_limits<int>::max();
  const float *k_scale = nullptr, *n_scale = nullptr;  // factors of M's rows or columns; null: 1
};

// Packed, [tiles of n][slabs of k][tile_n][4 lanes][8 elements] of each document. Lane t of a group
// of four reads k = 8t … 8t+7 of a slab, of x and of M: the sums run over the k of an instruction
// in another order, both operands alike. n is permuted within each 32 so that a lane's results are
// eight consecutive columns of y.
struct Packed {
  const uint4* data = nullptr;
  int64_t doc_step = 0;  // in 16-byte chunks
  int tile_n = 0, tiles = 0, slabs = 0;
};

constexpr int kPackThreads = 256;

// Grid (chunks, documents). What lies outside M is zero.
static __global__ void __launch_bounds__(kPackThreads)
    pack_kernel(const __grid_constant__ Matrix m, uint4* to, int64_t chunks, int tile_n,
                int slabs) {
  wait_for_earlier_kernels();
  const int64_t chunk = int64_t{blockIdx.x} * kPackThreads + threadIdx.x;
  if (chunk >= chunks) return;
  const int t = chunk % 4, q = chunk / 4 % tile_n;
  const int slab = static_cast<int>(chunk / 4 / tile_n) % slabs;
  const int tile = static_cast<int>(chunk / 4 / tile_n) / slabs;
  const int n = tile * tile_n + q / 32 * 32 + q % 8 / 2 * 8 + q % 32 / 8 * 2 + q % 2;
  const int k = kSlab * slab + 8 * t;
  float v[8] = {};
  if (n < m.n && k < m.k) {  // m.k and k_group are multiples of 8
    const float* const from = m.from[n / m.n_group + k / m.k_group] + blockIdx.y * m.doc_step +
                              n % m.n_group * m.n_step + k % m.k_group * m.k_step;
    if (m.k_step == 1 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
      load<kPack>(from, v);
    } else {
#pragma unroll
      for (int r = 0; r < 8; ++r) v[r] = from[r * m.k_step];
    }
    const float column = m.n_scale ? m.n_scale[n] : 1.0f;
#pragma unroll
    for (int r = 0; r < 8; ++r) v[r] *= m.k_scale ? m.k_scale[k + r] * column : column;
  }
  to[blockIdx.y * chunks + chunk] = {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                     pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

// To `to`, [docs · tiles · slabs · tile_n · 4].
inline Packed pack_to(CudaDevice& device, int64_t docs, const Matrix& m, int tile_n, int64_t tiles,
                      int64_t slabs, uint4* to) {
  const int64_t chunks = tiles * slabs * tile_n * 4;
  const dim3 grid(static_cast<unsigned>(ceil_div(chunks, kPackThreads)),
                  static_cast<unsigned>(docs));
  launch_dependent(device.stream(), pack_kernel, grid, kPackThreads, 0, m, to, chunks, tile_n,
                   static_cast<int>(slabs));
  cuda_check_launch("low_rank: packing");
  return {to, chunks, tile_n, static_cast<int>(tiles), static_cast<int>(slabs)};
}

inline uint4* packed_workspace(CudaDevice& device, int64_t chunks) {
  return reinterpret_cast<uint4*>(
      device.workspace(Workspace::operands, static_cast<size_t>(chunks) * sizeof(uint4)));
}

inline Packed pack(CudaDevice& device, int64_t docs, const Matrix& m, int tile_n, int64_t tiles,
                   int64_t slabs) {
  return pack_to(device, docs, m, tile_n, tiles, slabs,
                 packed_workspace(device, docs * tiles * slabs * tile_n * 4));
}

}  // namespace fairway::cuda::low_rank_mma
