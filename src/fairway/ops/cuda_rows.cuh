// What the row-wise CUDA kernels share: elements to and from registers, sums in a fixed order, and
// kernels over columns. Internal to ops/*_cuda.cu.
//
// Elements lie in memory as T and are computed with as float. Where widths and addresses allow, a
// thread moves kPack = 8 neighbouring elements in 16-byte accesses; otherwise one at a time
// (kVec = 1). No pointer is __restrict__: many ops work in place, each thread reading an element
// before it writes it.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "fairway/base/bf16.h"
#include "fairway/base/bf16_cuda.cuh"
#include "fairway/device/cuda_check.h"
#include "fairway/device/cuda_device.h"
#include "fairway/device/dependent_launch.cuh"
#include "fairway/ops/add_partials.h"
#include "fairway/ops/instantiate.h"

namespace fairway {

inline constexpr int kPack = 8;
inline constexpr int kWarp = 32;
inline constexpr int kRowThreads = 256;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

inline unsigned grid(int64_t blocks) {
  return static_cast<unsigned>(blocks);
}
inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <class... P>
bool aligned16(const P*... p) {
  return (((reinterpret_cast<uintptr_t>(p) & 15u) == 0) && ...);
}

// kVec neighbouring elements as they lie in memory.
template <class T, int kVec>
struct Pack {
  static constexpr int kQuads = static_cast<int>(sizeof(T)) * kVec / 16;
  static_assert(kQuads > 0 && static_cast<int>(sizeof(T)) * kVec % 16 == 0);
  uint4 quad[kQuads];
};
template <class T>
struct Pack<T, 1> {
  static_assert(std::is_same_v<T, float>);
  float one;
};
template <>
struct Pack<bf16, 1> {
  uint16_t one;
};

template <int kVec, class T>
__device__ __forceinline__ void load(const T* p, Pack<T, kVec>& pack) {
  if constexpr (kVec == 1) {
    if constexpr (std::is_same_v<T, bf16>)
      pack.one = p->bits;
    else
      pack.one = *p;
  } else {
    const uint4* from = reinterpret_cast<const uint4*>(p);
#pragma unroll
    for (int q = 0; q < Pack<T, kVec>::kQuads; ++q) pack.quad[q] = from[q];
  }
}

template <class T, int kVec>
__device__ __forceinline__ void unpack(const Pack<T, kVec>& pack, float (&v)[kVec]) {
  if constexpr (kVec == 1) {
    if constexpr (std::is_same_v<T, bf16>)
      v[0] = __uint_as_float(static_cast<uint32_t>(pack.one) << 16);
    else
      v[0] = pack.one;
  } else {
#pragma unroll
    for (int q = 0; q < Pack<T, kVec>::kQuads; ++q) {
      const uint32_t words[4] = {pack.quad[q].x, pack.quad[q].y, pack.quad[q].z, pack.quad[q].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if constexpr (std::is_same_v<T, bf16>) {
          const float2 pair = unpack_bf16(words[w]);
          v[2 * w] = pair.x;
          v[2 * w + 1] = pair.y;
        } else {
          v[4 * q + w] = __uint_as_float(words[w]);
        }
      }
    }
  }
}

template <int kVec, class T>
__device__ __forceinline__ void load(const T* p, float (&v)[kVec]) {
  Pack<T, kVec> pack;
  load<kVec>(p, pack);
  unpack(pack, v);
}

template <int kVec, class T>
__device__ __forceinline__ void store(T* p, const Pack<T, kVec>& pack) {
  if constexpr (kVec == 1) {
    if constexpr (std::is_same_v<T, bf16>)
      p->bits = pack.one;
    else
      *p = pack.one;
  } else {
    uint4* to = reinterpret_cast<uint4*>(p);
#pragma unroll
    for (int q = 0; q < Pack<T, kVec>::kQuads; ++q) to[q] = pack.quad[q];
  }
}
// bf16 is rounded to nearest, ties to even.
template <int kVec, class T>
__device__ __forceinline__ void store(T* p, const float (&v)[kVec]) {
  if constexpr (kVec == 1) {
    if constexpr (std::is_same_v<T, bf16>)
      p->bits = __bfloat16_as_ushort(__float2bfloat16_rn(v[0]));
    else
      *p = v[0];
  } else if constexpr (std::is_same_v<T, bf16>) {
    *reinterpret_cast<uint4*>(p) = pack_bf16_8(v);
  } else {
    float4* to = reinterpret_cast<float4*>(p);
#pragma unroll
    for (int q = 0; q < kVec / 4; ++q)
      to[q] = make_float4(v[4 * q], v[4 * q + 1], v[4 * q + 2], v[4 * q + 3]);
  }
}

// A pack in parts of up to four elements, for kernels short of registers.
template <int kVec>
inline constexpr int kPart = kVec < 4 ? kVec : 4;

// v = part `part` of the pack.
template <class T, int kVec>
__device__ __forceinline__ void unpack_part(const Pack<T, kVec>& pack, int part,
                                            float (&v)[kPart<kVec>]) {
  if constexpr (kVec == 1) {
    unpack(pack, v);
  } else if constexpr (std::is_same_v<T, bf16>) {
    const uint4& quad = pack.quad[part / 2];
    const float2 low = unpack_bf16(part % 2 == 0 ? quad.x : quad.z);
    const float2 high = unpack_bf16(part % 2 == 0 ? quad.y : quad.w);
    v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
  } else {
    const uint4& quad = pack.quad[part];
    v[0] = __uint_as_float(quad.x), v[1] = __uint_as_float(quad.y);
    v[2] = __uint_as_float(quad.z), v[3] = __uint_as_float(quad.w);
  }
}
// Part `part` of the pack = v, rounded as by store.
template <class T, int kVec>
__device__ __forceinline__ void pack_part(const float (&v)[kPart<kVec>], int part,
                                          Pack<T, kVec>& pack) {
  if constexpr (kVec == 1) {
    if constexpr (std::is_same_v<T, bf16>)
      pack.one = __bfloat16_as_ushort(__float2bfloat16_rn(v[0]));
    else
      pack.one = v[0];
  } else if constexpr (std::is_same_v<T, bf16>) {
    uint4& quad = pack.quad[part / 2];
    (part % 2 == 0 ? quad.x : quad.z) = pack_bf16(v[0], v[1]);
    (part % 2 == 0 ? quad.y : quad.w) = pack_bf16(v[2], v[3]);
  } else {
    pack.quad[part] = make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]),
                                 __float_as_uint(v[2]), __float_as_uint(v[3]));
  }
}
template <class T>
__device__ __forceinline__ float load_one(const T* p) {
  float v[1];
  load<1>(p, v);
  return v[0];
}
template <class T>
__device__ __forceinline__ void store_one(T* p, float value) {
  const float v[1] = {value};
  store<1>(p, v);
}

// The sum over each group of kLanes neighbouring lanes, the same bits in all of them.
template <int kLanes>
__device__ __forceinline__ float group_sum(float v) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
  return v;
}
__device__ __forceinline__ float warp_sum(float v) {
  return group_sum<kWarp>(v);
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, offset));
  return v;
}
// Σ over a block of kThreads threads, the same bits in all; `of_warp` [kThreads / kWarp]: shared
// memory that none of them is reading any more.
template <int kThreads>
__device__ __forceinline__ float block_sum_for_all(float v, float* of_warp) {
  const int thread = static_cast<int>(threadIdx.x);
  v = warp_sum(v);
  if (thread % kWarp == 0) of_warp[thread / kWarp] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kThreads / kWarp; ++w) sum += of_warp[w];
  return sum;
}

// f(c, j) for the columns j, j + 1, … j + kVec − 1 of each of a lane's packs of a row. kChunks > 0:
// the row has at most kChunks·32·kVec columns, and c is the pack's number, a constant once
// unrolled, so that arrays indexed with it stay in registers. kChunks = 0: rows of any width, c =
// 0.
template <int kVec, int kChunks, class F>
__device__ __forceinline__ void for_packs(int64_t D, int lane, F&& f) {
  if constexpr (kChunks > 0) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int64_t j = static_cast<int64_t>(c * kWarp + lane) * kVec;
      if (j < D) f(c, j);
    }
  } else {
    for (int64_t j = lane * kVec; j < D; j += kWarp * kVec) f(0, j);
  }
}

// Calls f(vec, chunks), integral constants, for a warp that keeps a row of width D in registers
// where it fits.
template <class F>
void with_row_layout(bool packs, int64_t D, F&& f) {
  using std::integral_constant;
  if (!packs)
    f(integral_constant<int, 1>{}, integral_constant<int, 0>{});
  else if (D <= 2 * kWarp * kPack)
    f(integral_constant<int, kPack>{}, integral_constant<int, 2>{});
  else if (D <= 4 * kWarp * kPack)
    f(integral_constant<int, kPack>{}, integral_constant<int, 4>{});
  else
    f(integral_constant<int, kPack>{}, integral_constant<int, 0>{});
}

// --- sums over rows ---------------------------------------------------------------------------

// Rows of one block's partial sum: by the number of rows alone, so that the order of the sum is.
inline int64_t rows_per_partial(int64_t rows) {
  constexpr int64_t kPartials = 512, kSmallest = 32;
  return std::max(kSmallest, ceil_div(ceil_div(rows, kPartials), 8) * 8);
}

// --- kernels over columns ---------------------------------------------------------------------
//
// A thread owns kVec columns and walks down rows, with what it needs of the vectors over D in
// registers. An Op has
//   kIn, kOut, kScalars               tensors read and written; sums over rows and columns kept
//   in[kIn], out[kOut]                pointers; an output may be an input
//   columns<kVec>(j)                  its vectors' values at columns j … j + kVec − 1
//   row(columns, in, out, scalars)

inline constexpr int kColumnThreads = 64, kColumnRows = kRowThreads / kColumnThreads;

template <class T, int kVec, class Op>
__global__ __launch_bounds__(kRowThreads) void column_kernel(Op op, int64_t rows, int64_t D,
                                                             int64_t rows_per_block,
                                                             float* scalars_out) {
  wait_for_earlier_kernels();
  constexpr int kIn = Op::kIn, kOut = Op::kOut, kScalars = Op::kScalars;
  // Rows in flight: as many as leave two blocks a multiprocessor their registers.
  constexpr int kTensors = (kIn + kOut) * static_cast<int>(sizeof(T)) / 2;
  constexpr int kUnroll = kTensors <= 3 ? 4 : (kTensors <= 6 ? 2 : 1);
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kColumnThreads + x) * kVec;
  const int64_t begin = blockIdx.x * rows_per_block;
  const int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;

  float scalars[kScalars > 0 ? kScalars : 1] = {};
  if (column < D) {
    const auto columns = op.template columns<kVec>(column);
    for (int64_t t0 = begin + y; t0 < end; t0 += kColumnRows * kUnroll) {
      Pack<T, kVec> packs[kUnroll][kIn];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t t = t0 + u * kColumnRows;
        if (t < end) {
#pragma unroll
          for (int i = 0; i < kIn; ++i) load<kVec>(op.in[i] + t * D + column, packs[u][i]);
        }
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t t = t0 + u * kColumnRows;
        if (t < end) {
          float in[kIn][kVec], out[kOut][kVec];
#pragma unroll
          for (int i = 0; i < kIn; ++i) unpack(packs[u][i], in[i]);
          op.row(columns, in, out, scalars);
#pragma unroll
          for (int o = 0; o < kOut; ++o) store<kVec>(op.out[o] + t * D + column, out[o]);
        }
      }
    }
  }

  if constexpr (kScalars > 0) {
    constexpr int kWarps = kRowThreads / kWarp;
    __shared__ float of_warp[kScalars][kWarps];
    const int thread = y * kColumnThreads + x;
#pragma unroll
    for (int s = 0; s < kScalars; ++s) {
      const float sum = warp_sum(scalars[s]);
      if (thread % kWarp == 0) of_warp[s][thread / kWarp] = sum;
    }
    __syncthreads();
    if (thread < kScalars) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += of_warp[thread][w];
      const int64_t block = static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
      scalars_out[block * kScalars + thread] = sum;
    }
  }
}

// Where the partial sums of a column kernel are: scalars [blocks, kScalars].
struct ColumnSums {
  float* scalars = nullptr;
  int64_t blocks = 0;
};

// Runs an op over [rows, D]; `packs`: D and every pointer, the vectors' too, allow 16-byte
// accesses.
template <class T, class Op>
ColumnSums run_columns(CudaDevice& device, const Op& op, int64_t rows, int64_t D, bool packs,
                       const char* name) {
  ColumnSums result;
  if (rows == 0 || D == 0) return result;
  const int64_t rows_per_block = Op::kScalars > 0 ? rows_per_partial(rows) : 32;
  const int64_t tiles = ceil_div(D, kColumnThreads * (packs ? kPack : 1));
  const int64_t row_blocks = ceil_div(rows, rows_per_block);
  result.blocks = row_blocks * tiles;
  if constexpr (Op::kScalars > 0)
    result.scalars = reinterpret_cast<float*>(device.workspace(
        Workspace::rows, static_cast<size_t>(result.blocks * Op::kScalars) * sizeof(float)));
  const dim3 blocks(grid(row_blocks), grid(tiles)), threads(kColumnThreads, kColumnRows);
  if (packs)
    launch_dependent(device.stream(), column_kernel<T, kPack, Op>, blocks, threads, 0, op, rows, D,
                     rows_per_block, result.scalars);
  else
    launch_dependent(device.stream(), column_kernel<T, 1, Op>, blocks, threads, 0, op, rows, D,
                     rows_per_block, result.scalars);
  cuda_check_launch(name);
  return result;
}

}  // namespace fairway
