// Gradients of adapters, whichever kernel sums them: d[wide, rank] = wideᵀ narrow over each
// document's rows. Longer documents are cut into chunks of rows: several blocks sum them, and
// another kernel adds the sums in order. Internal to ops/; for nvcc.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "fairway/base/bf16.h"
#include "fairway/base/tensor.h"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/doc_tiles_cuda.h"
#include "fairway/ops/elementwise_cuda.h"
#include "fairway/ops/low_rank.h"

namespace fairway::cuda::low_rank {

constexpr int kChunkRows = 2048;

struct Gradient {
  const int32_t* doc_rows = nullptr;
  int docs = 0;
  const bf16* wide = nullptr;    // [rows, width]
  const bf16* narrow = nullptr;  // [rows, count·rank], rows narrow_pitch apart
  int width = 0, tiles = 0, narrow_pitch = 0;
  std::array<bf16*, kMaxLowRankGroup> d{};
  int count = 0, rank = 0;
  // Element (w, r) of d at w·wide_step + r·rank_step.
  int64_t doc_step = 0, wide_step = 0, rank_step = 0;
  const float* wide_scale = nullptr;  // factors of `wide`'s columns; null: 1
  float* partial = nullptr;           // [chunks, count, width·rank]: see partial_of
  int64_t most_rows = INT64_MAX;      // no document has more
};

// Where chunk `number` ≥ 1 of a document that begins at row `begin` leaves its sums. Such chunks
// begin at least kChunkRows rows apart, and as far from row 0.
__device__ inline float* partial_of(const Gradient& g, int64_t begin, int number, int adapter) {
  const int64_t slot = begin / kChunkRows + number - 1;
  return g.partial + (slot * g.count + adapter) * g.width * g.rank;
}

// Where the sums of a chunk go: a document's first to its gradient, those behind it to `partial`.
struct SumsPlace {
  bf16* d;
  float* partial;  // null for a first chunk

  __device__ __forceinline__ void store(int64_t at, float x) const {
    if (partial)
      partial[at] = x;
    else
      store_element(d + at, x);
  }
};
__device__ __forceinline__ SumsPlace sums_of(const Gradient& g, const DocTile& chunk, int adapter) {
  if (chunk.number == 0) return {g.d[adapter] + chunk.doc * g.doc_step, nullptr};
  return {nullptr,
          partial_of(g, chunk.begin - int64_t{kChunkRows} * chunk.number, chunk.number, adapter)};
}

// Room for the sums of all chunks of `rows` rows that are behind their document's first: floats.
inline int64_t partial_floats(int64_t rows, int64_t count, int64_t width, int64_t rank) {
  return rows / kChunkRows * count * width * rank;
}
inline float* partial_workspace(CudaDevice& device, int64_t floats) {
  return reinterpret_cast<float*>(
      device.workspace(Workspace::adapters, static_cast<size_t>(floats) * sizeof(float)));
}

// d += the sums of the chunks behind the first, in order; d is rounded once more. Grid (blocks of
// elements, adapters, documents).
constexpr int kSumThreads = 256, kSumBlocks = 8;
__device__ __forceinline__ void sum_chunks(const Gradient& g, int doc, int adapter) {
  const int64_t begin = int64_t{g.doc_rows[doc]} - g.doc_rows[0];
  const int chunks = (g.doc_rows[doc + 1] - g.doc_rows[doc] + kChunkRows - 1) / kChunkRows;
  bf16* const d = g.d[adapter] + doc * g.doc_step;
  if (chunks <= 1) return;
  for (int i = blockIdx.x * kSumThreads + threadIdx.x; i < g.width * g.rank;
       i += gridDim.x * kSumThreads) {
    float sum = load_element(d + i);
    for (int c = 1; c < chunks; ++c) sum += partial_of(g, begin, c, adapter)[i];
    store_element(d + i, sum);
  }
}
static __global__ void __launch_bounds__(kSumThreads)
    sum_chunks_kernel(const __grid_constant__ Gradient g) {
  wait_for_earlier_kernels();
  sum_chunks(g, blockIdx.z, blockIdx.y);
}

// dA = dxaᵀ x of all adapters of x. `rank_step` is their rows', so that `width` elements follow
// each other. Of `da` it is told where gradients go; the rows are those of `down`.
inline Gradient down_gradient(CudaDevice& device, Tensor<const bf16> dxa, Tensor<const bf16> x,
                              const LowRankDown<const float>& down, const LowRankDown<bf16>& da) {
  return {.doc_rows = down.doc_rows.data,
          .docs = static_cast<int>(down.docs),
          .wide = x.data,
          .narrow = dxa.data,
          .width = static_cast<int>(down.in),
          .narrow_pitch = static_cast<int>(down.width()),
          .d = da.a,
          .count = down.count,
          .rank = static_cast<int>(down.rank),
          .doc_step = da.stride,
          .wide_step = 1,
          .rank_step = down.in,
          .partial = partial_workspace(device,
                                       partial_floats(x.extent(0), down.count, down.in, down.rank)),
          .most_rows = std::min(down.most_rows, x.extent(0))};
}
// dB = gᵀ xa of one adapter; `partial` has partial_floats(rows, 1, out, rank) floats.
inline Gradient ups_gradient(const LowRankUpBackward<bf16>& one, Tensor<const bf16> xa,
                             float* partial) {
  const auto& [up, dy, db] = one;
  return {.doc_rows = up.doc_rows.data,
          .docs = static_cast<int>(up.docs),
          .wide = dy.data,
          .narrow = xa.data + up.place * up.rank,
          .width = static_cast<int>(up.out),
          .narrow_pitch = static_cast<int>(xa.extent(1)),
          .d = {db},
          .count = 1,
          .rank = static_cast<int>(up.rank),
          .doc_step = up.stride,
          .wide_step = up.rank,
          .rank_step = 1,
          .wide_scale = up.out_scale,
          .partial = partial,
          .most_rows = std::min(up.most_rows, dy.extent(0))};
}

// After a kernel that leaves chunks' sums.
inline void run_sum_chunks(CudaDevice& device, const Gradient& g) {
  if (g.most_rows <= kChunkRows) return;
  const dim3 grid(kSumBlocks, static_cast<unsigned>(g.count), static_cast<unsigned>(g.docs));
  launch_dependent(device.stream(), sum_chunks_kernel, grid, kSumThreads, 0, g);
  cuda_check_launch("low_rank: sum of chunks");
}

// The same for several gradients of one adapter each; those without d were not wanted.
struct UpsSums {
  Gradient gradient[kMaxLowRankGroup] = {};
  int count = 0;
};
static __global__ void __launch_bounds__(kSumThreads)
    sum_ups_kernel(const __grid_constant__ UpsSums u) {
  wait_for_earlier_kernels();
  const Gradient& g = u.gradient[blockIdx.y];
  if (g.d[0]) sum_chunks(g, blockIdx.z, 0);
}
inline void run_sum_ups(CudaDevice& device, int64_t docs, const UpsSums& u) {
  const auto has_chunks = [](const Gradient& g) { return g.d[0] && g.most_rows > kChunkRows; };
  if (std::none_of(u.gradient, u.gradient + u.count, has_chunks)) return;
  const dim3 grid(kSumBlocks, static_cast<unsigned>(u.count), static_cast<unsigned>(docs));
  launch_dependent(device.stream(), sum_ups_kernel, grid, kSumThreads, 0, u);
  cuda_check_launch("low_rank: sum of chunks");
}

}  // namespace fairway::cuda::low_rank
